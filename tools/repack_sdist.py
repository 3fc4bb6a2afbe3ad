"""Repacks sdists with the time SOURCE_DATE_EPOCH instead of that of the build: each build gives the same bytes.

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) python tools/repack_sdist.py dist/cymdn-*.tar.gz
"""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path


def repacked(archive, time):
    """Return the bytes of an archive of the same files: sorted by name, with one time, without owners."""
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for member in sorted(filter(tarfile.TarInfo.isfile, old.getmembers()), key=lambda member: member.name):
            info = tarfile.TarInfo(member.name)
            info.size, info.mtime, info.mode = member.size, time, 0o755 if member.mode & 0o100 else 0o644
            new.addfile(info, old.extractfile(member))
    return gzip.compress(packed.getvalue(), mtime=time)


if __name__ == "__main__":
    for archive in map(Path, sys.argv[1:]):
        archive.write_bytes(repacked(archive, int(os.environ["SOURCE_DATE_EPOCH"])))
