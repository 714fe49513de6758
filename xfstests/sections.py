"""The ways of mounting that the tests are run with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    name: str
    what: str
    options: tuple[str, ...] = ()
    # What the lower directory holds; nothing for an empty one.
    lower: str | None = None


SECTIONS = (
    Section("plain", "one empty lower, all else by default"),
    Section("populated", "over a copy of /usr/include", lower="/usr/include"),
    Section("volatile", "`volatile`", ("volatile",)),
    Section("dev", "`transport=dev`", ("transport=dev",)),
    Section("uring", "`transport=uring`", ("transport=uring",)),
    Section("passthrough", "`passthrough=on`", ("passthrough=on",)),
)
