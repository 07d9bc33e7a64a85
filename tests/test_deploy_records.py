"""Records of scans: read as they were written, or not at all, and true only of whole masks."""

import os

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
    set_aside,
    shown,
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


def test_a_record_is_of_the_files_it_names_in_their_order_whether_or_not_they_are_there(folder, tmp_path):
    scan, link, gone = with_content(tmp_path / "t1.nii", b"1"), tmp_path / "link.nii", tmp_path / "t2.nii"
    link.symlink_to(scan)
    record = a_record(folder, files=(Source.named(link), Source.named(gone)))
    with_content(scan, b"another")
    assert record.is_of([scan, gone]) and record.is_of([link, gone])
    assert not record.is_of([scan]) and not record.is_of([gone, scan])
    assert [file.bytes for file in record.files] == [1, 0]


def test_a_path_that_is_no_text_is_stored_escaped(folder, tmp_path):
    odd = with_content(tmp_path / os.fsdecode(b"M\xfcller.nii"), b"")
    record = a_record(folder, files=(Source.of(odd),))
    write_record(folder, record)
    assert read_record(record_path(folder, "a")).is_of([odd]) and shown(odd) == f"{tmp_path}/M\\xfcller.nii"
    assert shown("Müller.nii") == "Müller.nii"


def test_masks_of_the_last_record_and_of_those_before_are_known_until_they_change(folder):
    old, new = (Content.of(with_content(folder / f"{text}.x", text.encode())) for text in ("old", "new"))
    record = a_record(folder, masks={"a.nii.gz": new}, left={"a.nii.gz": old, "a-Liver.nii.gz": old})
    assert record.names() == {"a.nii.gz": new, "a-Liver.nii.gz": old}
    for name, content, known in (
        ("a.nii.gz", b"new", True),
        ("a.nii.gz", b"old", True),
        ("a.nii.gz", b"by hand", False),
        ("a-Liver.nii.gz", b"old", True),
        ("a-Liver.nii.gz", b"new", False),
    ):
        assert record.wrote(with_content(folder / name, content)) is known
    assert not record.wrote(folder / "gone.nii.gz")


def test_what_is_set_aside_takes_the_first_free_name(tmp_path):
    for number in (1, 2, 3):
        mask = with_content(tmp_path / "a.nii.gz", bytes([number]))
        assert set_aside(mask) == tmp_path / f"a.nii.gz.kept-{number}" and not mask.exists()
    (tmp_path / "b.nii.gz.kept-1").symlink_to(tmp_path / "nowhere")
    assert set_aside(with_content(tmp_path / "b.nii.gz", b"")).name == "b.nii.gz.kept-2"
    assert (tmp_path / "a.nii.gz.kept-2").read_bytes() == b"\x02"


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
