"""Google's object storage on this machine: the emulator, with the generations that it leaves out.

    python tests/io/runs/gcs_server.py start --port=PORT --in-memory --default-bucket=bucket

TensorStore reads and writes under conditions on an object's generation. The emulator answers as if
there were none and does not name the generation of what it reads, so that several writers of one
manifest fail ("Malformed StorageGeneration").
"""

from http import HTTPStatus
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download, _insert, _delete = objects.download, objects.insert, objects.delete


def generation(storage: Any, bucket: str, name: str) -> str:
    """Of an object; 0 where there is none."""
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def download(request: Any, response: Any, storage: Any, *rest: Any, **options: Any) -> None:
    here = generation(storage, request.params["bucket_name"], request.params["object_id"])
    if here != "0" and request.query.get("ifGenerationNotMatch") == [here]:
        response.status = HTTPStatus.NOT_MODIFIED
        return
    response["x-goog-generation"] = here
    _download(request, response, storage, *rest, **options)


def insert(request: Any, response: Any, storage: Any, *rest: Any, **options: Any) -> None:
    if request.query.get("uploadType") == ["media"]:  # TensorStore's; others name it in their body
        here = generation(storage, request.params["bucket_name"], request.query["name"][0])
        if request.query.get("ifGenerationMatch", [here]) != [here]:
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
    _insert(request, response, storage, *rest, **options)


def delete(request: Any, response: Any, storage: Any, *rest: Any, **options: Any) -> None:
    here = generation(storage, request.params["bucket_name"], request.params["object_id"])
    if request.query.get("ifGenerationMatch", [here]) != [here]:
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    _delete(request, response, storage, *rest, **options)


if __name__ == "__main__":
    objects.download, objects.insert, objects.delete = download, insert, delete
    from gcp_storage_emulator.__main__ import main

    main()
