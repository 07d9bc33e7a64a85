"""Records of scans: read as they were written, or not at all, and true only of whole masks."""

import pytest
from thresholds import with_content

from mimzoo.deploy.records import (
    FOLDER,
    Content,
    Maker,
    Record,
    Source,
    read_record,
    read_records,
    record_path,
    remove_leftovers,
    write_record,
)

MAKER = Maker(card="thresholds", model_sha256="ab" * 32, settings={"overlap": 0.5, "fill_holes": ["Liver"]})


def a_record(folder, scan="a", **changes):
    mask = with_content(folder / f"{scan}.nii.gz", scan.encode())
    about = {"files": (Source.of(mask),), "maker": MAKER, "run_by": "cpu", "masks": {mask.name: Content.of(mask)}}
    return Record(scan=scan, **{**about, **changes})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / FOLDER).mkdir()
    return tmp_path


def test_a_record_is_read_as_it_was_written(folder):
    record = a_record(folder, warnings=("a: x",), channels=("T1",))
    write_record(folder, record)
    assert read_record(record_path(folder, "a")) == record and record.holds(folder)
    assert [path.name for path in (folder / FOLDER).iterdir()] == ["a.json"]


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"b")])
def test_a_record_holds_no_longer_where_a_mask_is_gone_or_another(folder, change):
    record = a_record(folder)
    change(folder / "a.nii.gz")
    assert not record.holds(folder)


def test_the_record_of_a_failure_never_holds(folder):
    assert not a_record(folder, failure="a: no such file").holds(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b"null"])
def test_a_file_that_is_no_record_is_none(folder, content):
    write_record(folder, a_record(folder))
    with_content(record_path(folder, "b"), content)
    assert read_record(record_path(folder, "b")) is read_record(record_path(folder, "c")) is None
    assert [record.scan for record in read_records(folder)] == ["a"]


def test_a_record_that_is_cut_anywhere_is_none(folder):
    write_record(folder, a_record(folder))
    content = record_path(folder, "a").read_bytes()
    for length in range(0, len(content) - 1, 9):
        # only the line's end may be missing
        assert read_record(with_content(folder / "cut.json", content[:length])) is None


def test_what_a_killed_process_left_beside_a_file_is_removed_and_nothing_else(tmp_path):
    for name in (".a[1].png.0123abcd.part", ".a1.png.0123abcd.part", ".b.png.0123abcd.part", "a[1].png"):
        with_content(tmp_path / name, b"")
    remove_leftovers([tmp_path / "a[1].png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a1.png.0123abcd.part",
        ".b.png.0123abcd.part",
        "a[1].png",
    ]
