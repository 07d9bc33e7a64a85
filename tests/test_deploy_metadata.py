"""What an exported file says of itself: read as it was written, or refused."""

import hashlib
import json

import pytest
from thresholds import LABELS, ROI, metadata

from mimzoo.deploy import Metadata
from mimzoo.deploy.metadata import digest
from mimzoo.errors import ExportError
from mimzoo.tasks import Target

# The larger one comes last in the alphabet, as WT does.
REGIONS = {"Zone": ("Soft", "Hard"), "Core": ("Hard",)}
DIAGNOSIS = Target(column="diagnosis", classes=("CN", "AD"))
# As files were written before there were regions and targets, key by key.
OLD = {
    "card": "vit-mae-phantom-seg",
    "card_sha256": "0123456789abcdef" * 4,
    "format": 1,
    "input": {
        "channels": ["CT"],
        "crop": [16, 16, 12],
        "intensity": {"mode": "window_hu", "window_hu": [-175.0, 250.0]},
        "orientation": "RAS",
        "spacing_mm": [1.5, 1.5, 2.0],
    },
    "labels": {"1": "Soft", "2": "Hard"},
    "overlap": 0.5,
    "roi": [16, 16, 12],
}


def signed(content):
    """The props of this content, by a checksum of our own."""
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"mimzoo": json.dumps({**content, "sha256": checksum})}


KINDS = {
    "labels": metadata(flip_axes=(0, 2)),
    "regions": metadata(regions=REGIONS),
    "classes": metadata(labels=None, target=DIAGNOSIS),
    "value": metadata(labels=None, target=Target(column="age", unit="years")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_survives_the_round_trip_and_is_one_key(kind):
    props = KINDS[kind].to_props()
    assert list(props) == ["mimzoo"]
    assert Metadata.from_props(props) == KINDS[kind]
    assert json.loads(props["mimzoo"])["format"] == 1
    assert KINDS[kind].task.kind == kind


def test_outputs_have_one_order_before_and_after():
    for regions in (REGIONS, dict(reversed(REGIONS.items()))):
        before = metadata(regions=regions)
        assert Metadata.from_props(before.to_props()).task.outputs == before.task.outputs == ("Zone", "Core")


def test_files_written_before_there_were_regions_and_targets_still_open():
    found = Metadata.from_props(signed(OLD))
    assert found.task.kind == "labels" and found.task.outputs == ("background", "Soft", "Hard")
    assert found.labels == LABELS and found.roi == ROI and found.card == "vit-mae-phantom-seg"
    assert found.regions is None and found.target is None


def test_the_checksum_does_not_depend_on_the_order_of_keys():
    assert digest(OLD) == digest(dict(reversed(OLD.items())))


def test_any_changed_value_is_found_out():
    for key in ("card", "overlap", "labels", "input"):
        content = json.loads(signed(OLD)["mimzoo"])
        content[key] = {
            "card": "another",
            "overlap": 0.25,
            "labels": {"1": "Hard", "2": "Soft"},
            "input": {**OLD["input"], "spacing_mm": [1.5, 1.5, 2.5]},
        }[key]
        with pytest.raises(ExportError, match=r"m\.onnx: the metadata was changed after the export"):
            Metadata.from_props({"mimzoo": json.dumps(content)}, "m.onnx")


REFUSED = {
    "no key": ({}, "not made by mimzoo"),
    "no JSON": ({"mimzoo": "{"}, "metadata is damaged"),
    "a list": ({"mimzoo": "[1]"}, "metadata is damaged"),
    "a number": ({"mimzoo": "1"}, "metadata is damaged"),
    "no checksum": ({"mimzoo": json.dumps(OLD)}, "changed after"),
    "unknown key": (signed({**OLD, "extra": 1}), r"\(extra: extra inputs"),
    "missing keys": (signed({"format": 1}), r"\(card: field required"),
    "another format": (signed({**OLD, "format": 2}), r"\(format: "),
    "gap in labels": (signed({**OLD, "labels": {"1": "a", "3": "b"}}), r"\(labels must count up from 1"),
    "no labels": (signed({**OLD, "labels": {}}), r"\(a task needs `labels`"),
    "no task": (signed({key: OLD[key] for key in OLD if key != "labels"}), r"\(a task needs `labels`"),
    "two tasks": (signed({**OLD, "target": {"column": "age"}}), "a target is told of a whole scan"),
    "unknown label": (signed({**OLD, "regions": {"Core": ["Bone"]}}), "region 'Core' names the unknown label 'Bone'"),
    "empty region": (signed({**OLD, "regions": {"Core": []}}), r"\(regions.Core: "),
    "overlap": (signed({**OLD, "overlap": 1}), r"\(overlap: "),
    "card hash": (signed({**OLD, "card_sha256": "0123"}), r"\(card_sha256: "),
    "another window": (
        signed({**OLD, "roi": [8, 8, 8]}),
        r"roi \[8, 8, 8\] is not the crop of the input",
    ),
}


@pytest.mark.parametrize(("props", "reason"), REFUSED.values(), ids=REFUSED)
def test_metadata_that_must_not_be_believed_is_refused_in_one_sentence(props, reason):
    with pytest.raises(ExportError, match=reason) as caught:
        Metadata.from_props(props, "m.onnx")
    assert str(caught.value).startswith("m.onnx: ") and "`mimzoo export`" in str(caught.value)
    assert "\n" not in str(caught.value)
