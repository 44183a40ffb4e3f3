"""What is known about jobs after a server has ended, however it did."""

import pytest
from PIL import Image

pytest.importorskip("prometheus_client")

from colorize_jax.errors import UserError
from colorize_jax.inference.metadata import PictureMetadata
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.studio import journal
from colorize_jax.studio.journal import JobRecord, Journal

OPTIONS = InferenceOptions(seed=3)


def records(count):
    return [JobRecord.new("ann", OPTIONS.to_dict()).change(created=float(i)) for i in range(count)]


def test_a_new_server_says_what_became_of_every_job(tmp_path):
    first = Journal(tmp_path)
    running, queued, done, failed = records(4)
    for record in (running, queued, done, failed):
        first.add(record)
    first.write(running.change(status=journal.RUNNING, steps_done=7, steps=20))
    first.save(done, Image.new("RGB", (4, 4)), PictureMetadata(OPTIONS))
    first.write(done.change(status=journal.DONE))
    first.write(failed.change(status=journal.FAILED, error="got nothing", error_kind="input"))
    first.close()

    second = Journal(tmp_path)
    for record, steps in ((running, 7), (queued, 0)):
        told = second.read(record.id)
        assert (told.status, told.steps_done) == (journal.LOST, steps)
        assert told.error == journal.LOST_REASON and told.finished
    assert second.read(done.id) == done.change(status=journal.DONE)
    assert second.picture(done.id).exists()
    assert second.read(failed.id).error == "got nothing"
    assert [record.id for record in second.latest(2)] == [failed.id, done.id]


def test_two_servers_do_not_share_a_folder(tmp_path):
    first = Journal(tmp_path)
    with pytest.raises(UserError, match="another server writes"):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path).close()


def test_the_oldest_make_room(tmp_path):
    kept = Journal(tmp_path, keep=2)
    old, *others = records(3)
    for record in (old, *others):
        kept.add(record)
    assert kept.read(old.id) is None and not (tmp_path / old.id).exists()
    assert all(kept.read(record.id) == record for record in others)


def test_only_records_are_read(tmp_path):
    kept = Journal(tmp_path / "outputs")
    (tmp_path / "job.json").write_text("{}")
    for name in ("..", ".", "", "a/b", "0" * 31, "0" * 32, "A" * 32, "0" * 32 + "\n"):
        assert kept.read(name) is None
    (record,) = records(1)
    kept.add(record)
    (kept.folder / record.id / "job.json").write_text('{"id": 1}')
    assert kept.read(record.id) is None
