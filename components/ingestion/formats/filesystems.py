"""The file systems of URIs: pyarrow's own, and for every other scheme those of fsspec.

    s3:// gs:// abfs:// hdfs:// hf://     pyarrow's; the last with the package huggingface_hub
    memory:// http:// sftp:// ...         fsspec's; an error names the package that a scheme needs
    zip://folder::/here/corpus.zip        files inside another file, as fsspec chains them

The address of a folder at http:// ends in "/", since nothing else distinguishes it from a file.
"""

import pyarrow.fs as pafs

ARROW = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "hf")


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI, and the path in it."""
    if uri.partition("://")[0] in ARROW:
        filesystem, root = pafs.FileSystem.from_uri(uri)
    else:
        from fsspec.core import url_to_fs  # a tenth of a second, which only these URIs need

        found, root = url_to_fs(uri)
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(found))
    return filesystem, root.rstrip("/")


def infos(filesystem: pafs.FileSystem, root: str) -> list[pafs.FileInfo]:
    """The files of a folder and its subfolders; where a server lists no sizes, each file is queried by itself."""
    found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    return [filesystem.get_file_info(info.path) if info.is_file and info.size is None else info for info in found]


def version(filesystem: pafs.FileSystem, path: str, modified: int | None) -> str:
    """A string that changes when the file does: its modification time, or all of fsspec's file information."""
    if modified is not None or not isinstance(filesystem, pafs.PyFileSystem):
        return str(modified)
    return repr(sorted(filesystem.handler.fs.info(path).items()))
