"""Unpacks Debian's Python for arm64 into a folder, where qemu-aarch64 runs it; changes nothing else on the machine.

    python tools/arm64_python.py FOLDER
    qemu-aarch64 -L FOLDER/root FOLDER/root/usr/bin/python3

Needs apt-get and dpkg-deb, hence Debian or one of its kin, whose packages it asks for.
"""

import subprocess
import sys
from pathlib import Path

PACKAGES = """
    python3-minimal python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g
    libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1
"""


def apt_get(folder, *arguments):
    """Run apt-get for arm64 with lists, status and cache of its own."""
    state, cache = folder / "state", folder / "cache"
    for path in (state / "lists" / "partial", cache / "archives" / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",  # its own user may not write to our folder
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": cache,
    }
    settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", "-qq", *settings, *arguments], cwd=folder, check=True)


def main(folder):
    """Download the packages and unpack them below `root`."""
    folder.mkdir(parents=True, exist_ok=True)
    apt_get(folder, "update")
    apt_get(folder, "download", *PACKAGES.split())
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
