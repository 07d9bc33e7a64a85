"""From specs to modules, and from cards to verified models."""

import pytest
import torch

import mimzoo
from mimzoo.cards import card_folders, find_card, override, read_card, update_card, write_card
from mimzoo.errors import ShapeError, UnknownNameError, WeightsError
from mimzoo.models import TaskModel, build_decoder, build_encoder, build_head, build_masking, load
from mimzoo.recipes import Component
from mimzoo.reconstruct import load_objective, make_objective
from mimzoo.runs import keep_weights

TINY = "{patch: [4, 4, 4], width: 24, depth: 4, heads: 2, positions: learned}"


def tiny_card(name, folder):
    """The shipped card of that name with a tiny encoder and crop, in `folder`."""
    settings = [f"encoder.args={TINY}", "input.crop=[16, 16, 16]"]
    card = override(find_card(name), settings)
    write_card(update_card(card, weights=None, pretraining_weights=None, onnx=None), folder)
    return read_card(folder)


def seen(card):
    return len(card.block.input.channels), card.block.input.crop


@pytest.fixture
def encoder_card(tmp_path):
    """A folder with an encoder's card and weights, and the encoder."""
    card = tiny_card("vit-mae-phantom", tmp_path / "tiny")
    torch.manual_seed(1)
    encoder = build_encoder(card.block.encoder, *seen(card)).eval()
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    return keep_weights(card, tmp_path / "tiny", {"weights": state}), encoder


@pytest.fixture
def segmenter_card(tmp_path):
    """A folder with a segmenter's card and weights, and the segmenter."""
    card = tiny_card("vit-mae-phantom-seg", tmp_path / "tiny-seg")
    torch.manual_seed(2)
    encoder = build_encoder(card.block.encoder, *seen(card))
    head = build_head(card.block.finetuning.head, encoder, seen(card)[0], 1 + len(card.block.labels))
    model = TaskModel(encoder, head).eval()
    return keep_weights(card, tmp_path / "tiny-seg", {"weights": model.state_dict()}), model


def volume(channels=1, crop=(16, 16, 16)):
    return torch.rand(1, channels, *crop, generator=torch.Generator().manual_seed(0))


def test_a_loaded_encoder_computes_what_the_saved_one_did(encoder_card):
    card, encoder = encoder_card
    loaded = mimzoo.load(card.folder)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(encoder(volume()), loaded(volume()), strict=True))
    assert loaded.card == card
    assert loaded.report.complete()
    assert set(loaded.report.loaded) == {f"encoder.{key}" for key in encoder.state_dict()}


def test_a_loaded_segmenter_computes_what_the_saved_one_did(segmenter_card):
    card, model = segmenter_card
    loaded = load(card.folder)
    assert isinstance(loaded, TaskModel)
    assert torch.equal(model(volume()), loaded(volume()))
    assert loaded(volume()).shape == (1, 1 + len(card.block.labels), 16, 16, 16)


def test_for_another_crop_learned_positions_are_resized_and_it_is_said(encoder_card):
    card, encoder = encoder_card
    loaded = load(card.folder, crop=(16, 24, 32))
    assert loaded.report.resized == ("encoder.positions",)
    assert loaded.positions.shape == (1, 24, 4, 6, 8)
    other = volume(crop=(16, 24, 32))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(encoder(other), loaded(other), strict=True))


@pytest.mark.parametrize("kind", ["encoder", "segmenter"])
def test_for_other_channels_the_input_weights_are_adapted_and_it_is_said(kind, request):
    card, model = request.getfixturevalue(f"{kind}_card")
    loaded = load(card.folder, in_channels=3)
    adapted = {"encoder": {"encoder.patch.weight"}, "segmenter": {"encoder.patch.weight", "head.voxels.0.weight"}}
    assert set(loaded.report.adapted) == adapted[kind]
    before, after = model(volume()), loaded(volume().expand(-1, 3, -1, -1, -1))
    pairs = [(before, after)] if kind == "segmenter" else zip(before, after, strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_a_new_head_on_an_encoder_is_fresh_and_it_is_said(encoder_card):
    card, encoder = encoder_card
    model = load(card.folder, head="unetr", classes=5)
    assert model(volume()).shape == (1, 5, 16, 16, 16) and torch.isfinite(model(volume())).all()
    assert all(torch.equal(a, b) for a, b in zip(encoder(volume()), model.features(volume()), strict=True))
    assert {f"encoder.{key}" for key in encoder.state_dict()} == set(model.report.loaded)
    assert set(model.report.missing) == {f"head.{key}" for key in model.head.state_dict()}


def test_with_another_number_of_classes_a_segmenter_keeps_what_fits_of_its_head(segmenter_card):
    card, model = segmenter_card
    loaded = load(card.folder, classes=7)
    assert loaded(volume()).shape == (1, 7, 16, 16, 16)
    assert set(loaded.report.unfit) == {"head.logits.weight", "head.logits.bias"}
    kept, before = loaded.head.state_dict(), model.head.state_dict()
    assert all(torch.equal(kept[key], before[key]) for key in before if "logits" not in key)


def test_another_head_takes_the_place_of_the_old_one(segmenter_card):
    card, _ = segmenter_card
    loaded = load(card.folder, head="convolution")
    assert loaded(volume()).shape == (1, 1 + len(card.block.labels), 16, 16, 16)
    assert any(key.startswith("head.ups") for key in loaded.report.unexpected)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"classes": 3}, "is an encoder without a head; name a new one too, such as head='unetr'"),
        ({"head": "unetr"}, "has no task that tells how many outputs a head has; add classes=2"),
        ({"head": "swin-unetr", "classes": 2}, "the swin-unetr head takes a pyramid"),
        ({"crop": (16, 18, 16)}, "the crop 16 x 18 x 16 is not divisible by"),
    ],
)
def test_what_cannot_be_asked_of_an_encoder_is_said(encoder_card, asked, sentence):
    with pytest.raises(ShapeError, match=sentence):
        load(encoder_card[0].folder, **asked)


def test_a_head_that_nobody_offers_is_answered_with_the_nearest(encoder_card):
    with pytest.raises(UnknownNameError, match="no head is called 'untr'; did you mean 'unetr'"):
        load(encoder_card[0].folder, head="untr", classes=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_comes_in_the_precision_asked_for(encoder_card, dtype):
    loaded = load(encoder_card[0].folder, dtype=dtype)
    assert {tensor.dtype for tensor in (*loaded.parameters(), *loaded.buffers())} == {dtype}


def test_the_report_is_printed_once(encoder_card, capsys):
    card, _ = encoder_card
    loaded = load(card.folder, crop=(16, 16, 32))
    assert capsys.readouterr().err == f"mimzoo: {card.name}: {loaded.report}\n"
    assert "resized encoder.positions" in str(loaded.report)


def test_loading_initialises_nothing_and_leaves_random_numbers_alone(segmenter_card):
    card, _ = segmenter_card
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load(card.folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_written_to_loaded_weights_does_not_reach_the_file(encoder_card):
    card, encoder = encoder_card
    first = load(card.folder)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert torch.equal(load(card.folder).patch.weight, encoder.patch.weight)


@pytest.mark.parametrize(("name", "command"), [("vit-mae-phantom", "pretrain"), ("vit-mae-phantom-seg", "finetune")])
def test_a_card_without_weights_names_the_command_that_makes_them(name, command, tmp_path):
    tiny_card(name, tmp_path / name)
    with pytest.raises(WeightsError, match=f"{name} has no weights yet; .* mimzoo {command} {name} --data DIR"):
        load(tmp_path / name)


def test_weights_that_are_not_beside_the_card_are_said_so(encoder_card):
    card, _ = encoder_card
    (card.folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=f"model.safetensors is not beside its card in {card.folder}"):
        load(card.folder)


def test_tampered_weights_are_refused(encoder_card):
    card, _ = encoder_card
    path = card.folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not the file that its card names"):
        load(card.folder)


def test_weights_of_another_architecture_are_refused(encoder_card, tmp_path):
    card, encoder = encoder_card
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items() if "blocks.3" not in key}
    keep_weights(card, card.folder, {"weights": {**state, "decoder.bias": torch.ones(1)}})
    with pytest.raises(WeightsError, match=r"missing: encoder\.blocks\.3.*1 unexpected: decoder\.bias"):
        load(card.folder)


@pytest.mark.parametrize("name", [name for name in sorted(card_folders()) if find_card(name).block.pretraining])
def test_every_shipped_recipe_can_be_built(name):
    card = find_card(name)
    objective = make_objective(card)
    assert sum(parameter.numel() for parameter in objective.encoder.parameters() if parameter.requires_grad) > 1e5


@pytest.mark.parametrize("name", [name for name in sorted(card_folders()) if find_card(name).block.weights])
def test_every_shipped_model_loads_whole(name):
    model = load(name)
    assert model.report.complete()
    if model.card.block.pretraining_weights:
        assert load_objective(model.card).state_dict().keys() > {f"encoder.{key}" for key in model.state_dict()}


def test_loading_under_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'vit-mae-phantom'"):
        load("vit-mae-phantm")


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: build_encoder(Component(name="vit-tny"), 1, (16, 16, 16)), "no encoder is called 'vit-tny'; did you"),
        (lambda: build_masking(Component(name="randm")), "no masking is called 'randm'; did you mean 'random'"),
    ],
)
def test_unknown_components_are_refused(build, sentence):
    with pytest.raises(UnknownNameError, match=sentence):
        build()


def test_unknown_arguments_are_refused():
    with pytest.raises(ShapeError, match="vit-tiny: unknown argument 'widht'; did you mean 'width'"):
        build_encoder(Component(name="vit-tiny", args={"widht": 3}), 1, (16, 16, 16))


def test_a_decoder_is_built_for_the_encoders_tokens():
    encoder = build_encoder(Component(name="vit-tiny", args={"patch": [4, 4, 8], "depth": 4}), 2, (16, 16, 16))
    decoder = build_decoder(Component(name="linear"), encoder, 2, (16, 16, 16))
    assert decoder.voxels.weight.shape == (2 * 4 * 4 * 8, 192)
