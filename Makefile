# make && sudo make install [PREFIX=/usr/local] [SBINDIR=/sbin] [DESTDIR=]

PREFIX ?= /usr/local
# Where mount(8) and umount(8) look for helpers, whatever the prefix is.
SBINDIR ?= /sbin
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
CARGO ?= cargo
INSTALL ?= install
CARGO_TARGET_DIR ?= target
BINARY ?= $(CARGO_TARGET_DIR)/release/overcoat

.PHONY: all install uninstall

all:
	$(CARGO) build --release --locked

install:
	@test -x "$(BINARY)" || { echo "no $(BINARY): run 'make' first" >&2; exit 1; }
	$(INSTALL) -D -m 755 "$(BINARY)" "$(DESTDIR)$(BINDIR)/overcoat"
	$(INSTALL) -d "$(DESTDIR)$(SBINDIR)"
	ln -sf "$(BINDIR)/overcoat" "$(DESTDIR)$(SBINDIR)/mount.fuse.overcoat"
	ln -sf "$(BINDIR)/overcoat" "$(DESTDIR)$(SBINDIR)/umount.fuse.overcoat"
	if test -f doc/overcoat.1; then \
		$(INSTALL) -D -m 644 doc/overcoat.1 "$(DESTDIR)$(MANDIR)/man1/overcoat.1"; fi

uninstall:
	rm -f "$(DESTDIR)$(BINDIR)/overcoat" "$(DESTDIR)$(SBINDIR)/mount.fuse.overcoat" \
		"$(DESTDIR)$(SBINDIR)/umount.fuse.overcoat" \
		"$(DESTDIR)$(MANDIR)/man1/overcoat.1"
