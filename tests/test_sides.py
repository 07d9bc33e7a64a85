"""Left and right: found by their names, swapped in mirrored views, and never taken for each other."""

import pytest

from mimzoo.cards import override
from mimzoo.errors import CardError
from mimzoo.hub import find_model
from mimzoo.recipes import Augmentation
from mimzoo.sides import check_sides, mirrored_outputs, named_sides
from mimzoo.tasks import Target, make_task

HEAD = {1: "Brainstem", 2: "RightParotid", 3: "LeftParotid", 4: "Mandible"}


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["Brainstem", "RightParotid", "LeftParotid"], ((2, 3),)),
        (["kidney_left", "kidney_right", "lung lower lobe left"], ((2, 1),)),
        (["Parotid_L", "Parotid_R", "A_Carotid_R", "A_Carotid_L"], ((2, 1), (3, 4))),
        (["LEFT ATRIUM", "RIGHT ATRIUM", "left ventricle"], ((2, 1),)),
        (["ctx-lh-insula", "ctx-rh-insula", "RtKidney", "LtKidney"], ((2, 1), (3, 4))),
        (["leftkidney", "RIGHTKIDNEY", "kidney"], ((2, 1),)),
        (["Bright", "Blight", "Rl", "cleft"], ()),
        (["vertebrae_L1", "vertebrae_L2", "right hip"], ()),
    ],
)
def test_the_two_sides_of_an_organ_are_known_by_their_names(names, pairs):
    assert named_sides(dict(enumerate(names, 1))) == pairs


def test_outputs_of_the_sides_change_places():
    assert mirrored_outputs(make_task(HEAD, None, None), ((2, 3),)) == (0, 1, 3, 2, 4)
    assert mirrored_outputs(make_task(HEAD, None, None), ()) == (0, 1, 2, 3, 4)


def test_regions_change_places_with_the_region_of_their_mirrored_labels():
    regions = {
        "Glands": ("RightParotid", "LeftParotid"),
        "Right": ("RightParotid",),
        "Left": ("LeftParotid",),
        "Bone": ("Mandible",),
    }
    task = make_task(HEAD, regions, None)
    assert task.outputs == ("Glands", "Bone", "Left", "Right")
    assert mirrored_outputs(task, ((2, 3),)) == (0, 1, 3, 2)
    lopsided = make_task(HEAD, {"Right": ("RightParotid",), "Bone": ("Mandible",)}, None)
    with pytest.raises(ValueError, match="mirrors the region 'Right' to one that is none"):
        mirrored_outputs(lopsided, ((2, 3),))


@pytest.mark.parametrize(
    ("task", "known"),
    [(make_task(HEAD, None, None), "1, 2, 3, 4"), (make_task(None, None, Target(column="age")), "none")],
    ids=["labels", "value"],
)
def test_pairs_of_unknown_labels_are_refused(task, known):
    with pytest.raises(ValueError, match=f"sided_labels names the label 7; there are {known}$"):
        check_sides(task, Augmentation(sided_labels=((7, 1),)))


def test_classes_that_are_sides_are_no_matter_of_labels():
    task = make_task(None, None, Target(column="side", classes=("left", "right")))
    with pytest.raises(ValueError, match="mirrored along X, right would be left: leave X out$"):
        check_sides(task, Augmentation(flip_axes=(0, 1)))
    check_sides(task, Augmentation(flip_axes=(1, 2)))


def test_a_card_that_would_teach_left_for_right_is_refused_with_what_to_write():
    card = find_model("resenc-headneck-seg")
    with pytest.raises(
        CardError, match=r"RightParotid would be LeftParotid: .*sided_labels \(\[\[3, 4\]\]\)"
    ) as caught:
        override(card, ["finetuning.augmentation={flip_axes: [0]}"])
    assert "\n" not in str(caught.value)
    paired = override(card, ["finetuning.augmentation={flip_axes: [0], sided_labels: [[3, 4]]}"])
    assert paired.block.finetuning.augmentation.sided_labels == ((3, 4),)
    assert override(card, ["finetuning.augmentation={flip_axes: [1, 2]}"]).block.finetuning is not None
