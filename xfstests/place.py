"""What the tests need around them: users, the mount helper, directories, the configuration."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

USERS = ("fsgqa", "fsgqa2", "123456-fsgqa")
HELPER = Path("/sbin/mount.fuse.overcoat")

# check compares the type that df shows with FSTYP, which has to be 'fuse' for everything else.
# Room for the sections' directories, in bytes: tests fill it up.
ROOM = 24 << 30

DF = """#!/bin/bash
set -o pipefail
{df} "$@" | sed 's/fuse\\.overcoat/fuse/'
"""

CONFIG = """export FSTYP=fuse
export FUSE_SUBTYP=.overcoat
export TEST_DEV=overcoat-test
export TEST_DIR={work}/mnt/test
export SCRATCH_DEV=overcoat-scratch
export SCRATCH_MNT={work}/mnt/scratch
export RESULT_BASE={work}/results/{section}
export TEST_FS_MOUNT_OPTS="-o {test}"
export MOUNT_OPTIONS="-o {scratch}"
"""


def enter_mount_namespace():
    """Whatever a test leaves mounted ends with this process, which keeps no other mount of Overcoat alive."""
    if "OVERCOAT_XFSTESTS" not in os.environ:
        os.environ["OVERCOAT_XFSTESTS"] = "inside"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *sys.argv])
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind = line.split()[:3]
        if kind == "fuse.overcoat":
            subprocess.run(["umount", "-l", point.encode().decode("unicode_escape")])


@contextlib.contextmanager
def helper(binary):
    """Lets mount(8) call `binary`: in place of the one that is installed, or by a link for the time."""
    if not binary.exists():
        sys.exit(f"no {binary}: build it first, or name another with --overcoat")
    if HELPER.exists():
        subprocess.run(["mount", "--bind", binary.resolve(), HELPER.resolve()], check=True)
        yield
        return
    HELPER.unlink(missing_ok=True)
    HELPER.symlink_to(binary.resolve())
    try:
        yield
    finally:
        HELPER.unlink()


def add_users():
    for user in USERS:
        if subprocess.run(["id", user], capture_output=True).returncode != 0:
            subprocess.run(["useradd", "--badname", "--create-home", user], check=True)


def unmount(mountpoint):
    """A daemon closes its filestore a moment after its own mount has gone."""
    deadline = time.monotonic() + 30
    while subprocess.run(["umount", mountpoint], capture_output=True).returncode != 0:
        if time.monotonic() > deadline:
            sys.exit(f"xfstests/run: {mountpoint} stays busy")
        time.sleep(0.1)


@contextlib.contextmanager
def host(work):
    """A file system in a sparse file for what lies below the mounts, as some tests fill theirs."""
    work.mkdir(parents=True, exist_ok=True)
    image, mountpoint = work / "host.img", work / "host"
    mountpoint.mkdir(exist_ok=True)
    with open(image, "wb") as file:
        file.truncate(ROOM)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop,discard", image, mountpoint], check=True)
        yield mountpoint
        unmount(mountpoint)
    finally:
        image.unlink()


class Place:
    """The directories of one section, fresh, and the configuration that points at them."""

    def __init__(self, work, host, section):
        self.work = work
        self.host = host
        self.section = section
        self.results = self.work / "results" / section.name

    def __enter__(self):
        for side in ("test", "scratch"):
            shutil.rmtree(self.host / side, ignore_errors=True)
            (self.host / side / "upper").mkdir(parents=True)
            (self.work / "mnt" / side).mkdir(parents=True, exist_ok=True)
            lower = self.host / side / "lower"
            lower.mkdir()
            if self.section.lower:
                # In a directory of its own: tests take names for free.
                subprocess.run(["cp", "-a", self.section.lower, lower], check=True)
        self.results.mkdir(parents=True, exist_ok=True)
        self._write_tools()
        self.config = self.work / "local.config"
        self.config.write_text(
            CONFIG.format(
                work=self.work,
                section=self.section.name,
                test=self._options("test"),
                scratch=self._options("scratch"),
            )
        )
        return self

    def __exit__(self, *_):
        for side in ("test", "scratch"):
            while os.path.ismount(self.work / "mnt" / side):
                subprocess.run(["umount", "-l", self.work / "mnt" / side], check=True)

    def _options(self, side):
        layers = self.host / side
        options = [f"lowerdir={layers}/lower", f"upperdir={layers}/upper", *self.section.options]
        return ",".join(options)

    def _write_tools(self):
        df = self.work / "bin" / "df"
        df.parent.mkdir(exist_ok=True)
        df.write_text(DF.format(df=shutil.which("df")))
        df.chmod(0o755)

    def environment(self):
        path = f"{self.work}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
        return {**os.environ, "PATH": path, "HOST_OPTIONS": str(self.config)}

    def abort_mounts(self):
        """Frees processes that wait for an answer of a mount."""
        for side in ("test", "scratch"):
            subprocess.run(["umount", "-f", "-l", self.work / "mnt" / side], capture_output=True)
