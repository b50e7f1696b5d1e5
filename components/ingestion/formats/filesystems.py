"""The file systems of URIs: pyarrow's own, and for every other scheme those of fsspec.

    s3:// gs:// abfs:// hdfs:// hf://     pyarrow's; the last with the package huggingface_hub
    memory:// http:// sftp:// ...         fsspec's, each with the package that it names where it is missing
    zip://folder::/here/corpus.zip        what lies in another file, as fsspec chains them

The address of a folder at http:// ends in "/": nothing else tells it from a page.
"""

import pyarrow.fs as pafs
from fsspec.core import url_to_fs

ARROW = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "hf")


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI, and the path in it."""
    if uri.partition("://")[0] in ARROW:
        filesystem, root = pafs.FileSystem.from_uri(uri)
    else:
        found, root = url_to_fs(uri)
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(found))
    return filesystem, root.rstrip("/")


def infos(filesystem: pafs.FileSystem, root: str) -> list[pafs.FileInfo]:
    """What lies in a folder; a server whose list has no sizes is asked for each file."""
    found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    return [filesystem.get_file_info(info.path) if info.is_file and info.size is None else info for info in found]


def version(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> str:
    """What tells a file from what it is after a change: its time, or all that fsspec knows of it."""
    if info.mtime_ns is not None or not isinstance(filesystem, pafs.PyFileSystem):
        return str(info.mtime_ns)
    return repr(sorted(filesystem.handler.fs.info(info.path).items()))
