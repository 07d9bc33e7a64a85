"""Checkpoints come in whole and verified or not at all; nothing in a file is run; the card says where it is from."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import ViT

import mimzoo
from mimzoo.cards import card_folders, find_card, mimzoo_home, store_folder
from mimzoo.checkpoints import Rule, read_checkpoint, tensors_of, translate
from mimzoo.errors import CardError, ShapeError, UnknownNameError, WeightsError
from mimzoo.importing import import_checkpoint
from mimzoo.publish import publish
from mimzoo.registry import registry

FORMATS = [
    *("monai-mae", "monai-swinunetr", "monai-swinvit", "monai-unetr", "monai-vit"),
    *("mim-med3d-mae", "mim-med3d-simmim", "selfmedmae"),
    *("nnssl-primus", "nnssl-resenc", "voco", "suprem"),
]


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return ViT(in_channels=1, img_size=(16, 16, 16), patch_size=(8, 8, 8), hidden_size=24, mlp_dim=48, num_layers=4,
               num_heads=2, proj_type="conv").eval()  # fmt: skip


@pytest.fixture
def file(vit, tmp_path):
    torch.save({"state_dict": vit.state_dict()}, tmp_path / "vit.pt")
    return tmp_path / "vit.pt"


def left():
    """All that is in the local store."""
    return sorted(str(path.relative_to(mimzoo_home())) for path in mimzoo_home().rglob("*"))


def test_every_format_has_an_importer():
    assert {offer.name for offer in registry().of_kind("importer")} >= set(FORMATS)


def test_what_was_imported_loads_by_its_name_and_says_where_it_is_from(file, vit):
    done = import_checkpoint("monai-vit", file, "my-vit", {"heads": 2}, ["licence.data=my hospital's"])
    loaded, volume = mimzoo.load("my-vit"), torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        wanted = vit(volume)[0].transpose(1, 2).unflatten(2, (2, 2, 2))
        assert torch.allclose(loaded(volume)[-1], wanted, atol=1e-5)
    origin, content = loaded.card.block.origin, file.read_bytes()
    assert (origin.format, origin.file, origin.args) == ("monai-vit", "vit.pt", {"heads": 2})
    assert (origin.sha256, origin.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert loaded.card.block.licence.data == "my hospital's"
    assert loaded.card.block.overrides == ("licence.data=my hospital's",)
    assert done.report.complete() and len(done.report.loaded) == len(loaded.state_dict())
    assert "norm_cross_attn" in str(done) and "my-vit" in mimzoo.list_models()
    assert left() == ["models", "models/my-vit", "models/my-vit/README.md", "models/my-vit/model.safetensors"]


def test_two_imports_of_one_file_give_the_same_bytes(file):
    first, second = (
        import_checkpoint("monai-vit", file, name, {"heads": 2}).card.folder for name in ("my-vit", "my-other")
    )
    same = find_card("my-vit").block.model_dump(exclude={"weights"})
    assert find_card("my-other").block.model_dump(exclude={"weights"}) == same
    ours, theirs = (mimzoo.load(folder).state_dict() for folder in (first, second))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_safetensors_file_is_read_as_well(file, vit, tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({k: v.clone() for k, v in vit.state_dict().items()}, tmp_path / "vit.safetensors")
    import_checkpoint("monai-vit", tmp_path / "vit.safetensors", "my-vit", {"heads": 2})
    assert torch.equal(mimzoo.load("my-vit").patch.weight, vit.patch_embedding.patch_embeddings.weight)


def test_plain_data_beside_the_tensors_is_read(file, vit, tmp_path):
    import argparse

    content = {"state_dict": vit.state_dict(), "best": np.float64(0.5), "args": argparse.Namespace(lr=1e-3),
               "curve": np.arange(3), "epoch": 7}  # fmt: skip
    torch.save(content, tmp_path / "rich.pt")
    assert import_checkpoint("monai-vit", tmp_path / "rich.pt", "my-vit", {"heads": 2}).report.complete()


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_a_malicious_file_is_refused_and_nothing_of_it_runs(save, tmp_path):
    content, path = {"state_dict": Malicious(tmp_path / "ran")}, tmp_path / "bad.pt"
    torch.save(content, path) if save == "torch" else path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="could run code, so nothing of it is read; save its tensors alone"):
        import_checkpoint("monai-vit", path, "my-vit")
    assert not (tmp_path / "ran").exists() and left() == []
    # The file does run what it asks for where it is opened without care.
    pickle.loads(pickle.dumps(content)) if save == "pickle" else torch.load(path, weights_only=False)  # noqa: S301
    assert (tmp_path / "ran").exists()


DAMAGED = {
    "not there": (lambda path: path.unlink(), "cannot read the checkpoint .*: No such file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-500]), "damaged checkpoint, so nothing of it is read"),
    "empty": (lambda path: path.write_bytes(b""), "neither a checkpoint of torch.save nor a safetensors file"),
    "a text": (lambda path: path.write_text("hello"), "neither a checkpoint of torch.save nor a safetensors file"),
    "a list": (lambda path: torch.save([1], path), "holds a list, not a checkpoint's mapping"),
    "no tensors": (lambda path: torch.save({"epoch": 3}, path), "there are no tensors in it, only epoch"),
    "of another layout": (lambda path: torch.save({"a.b": torch.ones(2)}, path), "1 of its 1 tensors have names that"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_cannot_be_used_is_refused_and_leaves_nothing(what, file):
    damage, sentence = DAMAGED[what]
    damage(file)
    with pytest.raises(WeightsError, match=sentence):
        import_checkpoint("monai-vit", file, "my-vit", {"heads": 2})
    assert left() == []


def test_weights_that_are_not_finite_are_refused_and_leave_nothing(file, vit):
    torch.save({**vit.state_dict(), "norm.weight": torch.full((24,), torch.nan)}, file)
    with pytest.raises(WeightsError, match=r"'encoder.norm.weight' holds NaN or Inf"):
        import_checkpoint("monai-vit", file, "my-vit", {"heads": 2})
    assert [name for name in left() if "my-vit" in name] == []


@pytest.mark.parametrize("name", ["My Vit", "../escape", "a/b", ""])
def test_a_name_that_is_none_is_refused(name, file):
    with pytest.raises(CardError, match="is no name; write small letters, digits and hyphens"):
        import_checkpoint("monai-vit", file, name, {"heads": 2})


@pytest.mark.parametrize("taken", ["vit-mae-hippocampus", "my-vit"])
def test_a_name_that_is_taken_is_refused(taken, file):
    import_checkpoint("monai-vit", file, "my-vit", {"heads": 2})
    before = card_folders()
    with pytest.raises(CardError, match=f"a model is called '{taken}' already"):
        import_checkpoint("monai-vit", file, taken, {"heads": 2})
    assert card_folders() == before


def test_an_unknown_format_or_option_is_answered_with_the_nearest(file):
    with pytest.raises(UnknownNameError, match="no importer is called 'monai-vitt'; did you mean 'monai-vit'"):
        import_checkpoint("monai-vitt", file, "my-vit")
    with pytest.raises(ShapeError, match="unknown argument 'head'; did you mean 'heads'"):
        import_checkpoint("monai-vit", file, "my-vit", {"head": 2})


def test_what_may_not_be_passed_on_is_not_published(tmp_path):
    from golden_swin import GOLDENS

    GOLDENS["suprem"](tmp_path)
    (name,) = [path.name for path in store_folder("x").parent.iterdir()]
    assert find_card(name).block.origin.licence == "CC-BY-NC-ND-4.0"
    known = "{name: Dice, value: 0.5, data: mine, protocol: mine}"
    text = (store_folder(name) / "README.md").read_text()
    changed = text.replace("data: unknown", "data: public").replace("metrics: []", f"metrics: [{known}]")
    (store_folder(name) / "README.md").write_text(changed)
    with pytest.raises(CardError, match=r"whose licence \(CC-BY-NC-ND-4.0\) does not let others pass it on"):
        publish(name, "org/name", dry_run=True)


def test_the_command_imports_and_says_what_was_made_and_where(file, tmp_path):
    home = {**os.environ, "MIMZOO_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mimzoo", "import", "monai-vit", str(file), "--name", "my-vit"]
    done = subprocess.run([*command, "--option", "heads=2"], env=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("my-vit: encoder, ") and str(Path("home", "models", "my-vit")) in last
    wrong = subprocess.run([*command[:-1], "two", "--option", "heads"], env=home, capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1
    assert "--option 'heads' gives no value; write name=value" in wrong.stderr


def test_the_page_of_importers_holds_every_golden_and_each_within_its_bound():
    import golden_nnssl
    import golden_swin
    import golden_vit

    page = (Path(__file__).parents[1] / "docs" / "importers.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    found = {row[0]: row[1:] for row in rows if len(row) == 4}
    goldens = [*golden_swin.GOLDENS, *golden_vit.GOLDENS, *golden_nnssl.GOLDENS]
    assert set(found) - {"format"} == set(goldens)
    assert {golden.split(" ")[0] for golden in goldens} == set(FORMATS)
    assert all(float(found[golden][1]) <= 1e-4 < 0.1 < float(found[golden][2]) for golden in goldens)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"net": s, "epoch": 1}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_and_prefixes_of_every_name_are_taken_off(wrap, prefix):
    state = {f"{prefix}a.module.b": torch.ones(1), f"{prefix}c": torch.zeros(1)}
    assert set(tensors_of(wrap(state))) == {"a.module.b", "c"}


def test_a_prefix_that_not_every_name_has_is_kept():
    assert set(tensors_of({"module.a": torch.ones(1), "b": torch.ones(1)})) == {"module.a", "b"}


def test_two_tensors_that_would_get_one_name_are_refused():
    rules = [Rule(r"(?:a|b)\.w", "w")]
    with pytest.raises(WeightsError, match="two of its tensors would be called 'w' here, one of them 'b.w'"):
        translate({"a.w": torch.ones(1), "b.w": torch.ones(1)}, rules)


def test_a_checkpoint_is_known_by_its_content(file):
    read = read_checkpoint(file)
    assert read.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() and read.bytes == file.stat().st_size
    assert json.dumps(sorted(read.content)) == '["state_dict"]'
