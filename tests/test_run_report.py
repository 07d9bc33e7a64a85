"""A run on one page: all of it there, nothing from elsewhere, no name that is taken for markup."""

import base64
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from mimzoo import pretrain as pretraining
from mimzoo.blocks import Metric
from mimzoo.cards import override, parse_card, update_card, write_card
from mimzoo.errors import CardError, DataError
from mimzoo.evaluate import evaluate
from mimzoo.figures import Reconstruction, draw_stage
from mimzoo.figures.panels import HIDDEN
from mimzoo.finetune import finetune
from mimzoo.markup import element, page
from mimzoo.pretrain import pretrain, stages
from mimzoo.report import duration, report_run
from mimzoo.weights import read_weights

HOSTILE = """<script>alert("1")</script> & 'so' <b class="x">on"""
VOID = {"img", "meta"}


class Page(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, and the text within each."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.rows, self.styles = [], [], [], ""
        self.text = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "tr":
            self.rows.append([])
        if name in ("td", "th"):
            self.rows[-1].append("")
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.styles += data
        for name in set(self.open):
            self.text[name] = self.text.get(name, "") + data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def pictures(self):
        """What the pictures of the page are called, and their bytes."""
        found = [attributes for name, attributes in self.elements if name == "img"]
        return {each["alt"]: base64.b64decode(each["src"].removeprefix("data:image/png;base64,")) for each in found}

    def row(self, first):
        (found,) = [row for row in self.rows if row[0] == first]
        return found[1:]


def references(page):
    """Whatever a page would fetch or run."""
    scripted = {"script", "link", "iframe", "object", "embed", "base", "form", "a", "video", "audio"}
    found = [name for name, _ in page.elements if name in scripted]
    for _, attributes in page.elements:
        pointing = {
            key: value for key, value in attributes.items() if key in ("src", "href", "srcset", "data", "style")
        }
        found += [value for value in pointing.values() if not value.startswith("data:image/png;base64,")]
        found += [
            key for key in attributes if key.startswith("on") or (key == "http-equiv" and "refresh" in attributes[key])
        ]
    return found + re.findall(r"url\(|@import|https?:", page.styles)


@pytest.fixture
def run(tiny_encoder, tmp_path):
    """The folder of a run as training leaves it, with names that nobody should have."""
    folder = tmp_path / "run"
    metric = Metric(name="validation loss", value=0.125, data=HOSTILE, protocol=HOSTILE)
    card = update_card(tiny_encoder, metrics=[metric.model_dump()], command=f"mimzoo pretrain {HOSTILE}")
    write_card(
        parse_card(card.name, {**card.front, "mimzoo": card.block.model_dump(mode="json")}, HOSTILE, None), folder
    )
    rows = [f"{step},{split},loss,{1 / step}" for step in (3, 6) for split in ("training", "validation")]
    (folder / "history.csv").write_text("\n".join(["step,split,name,value", *rows]) + "\n")
    machine = {"device": HOSTILE, "processes": 2, "precision": "bf16", "processor": "a chip", "cores": 4}
    session = {"begun": "2026-01-02 03:04:05 UTC", "seconds": 4000.4, "machine": machine, "versions": {"torch": "9.9"}}
    sessions = [{**session, "first_step": 0, "last_step": 3}, {**session, "first_step": 3, "last_step": 6}]
    (folder / "sessions.json").write_text(json.dumps(sessions))
    crop = np.random.default_rng(0).random((8, 8, 8))
    for name in ("original", "masked", "step_000003", "step_000006", "step_000012"):
        draw_stage(folder / "reconstructions" / f"{name}.png", crop, name, (0, 1), (1.0, 1.0, 1.0))
    return folder


def figure(mean, std=None):
    return {"mean": mean, "std": std, "low": mean - 0.1, "high": mean + 0.1, "n": 2}


def evaluation(**changes):
    classes = {
        HOSTILE: {"metrics": {"dice": figure(0.5, 0.25), "hd95_mm": figure(3.0, 1.0)}, "n": 2, "n_absent": 0},
        "Gone": {"metrics": {}, "n": 0, "n_absent": 2},
    }
    cases = {f"{HOSTILE} {n}": {HOSTILE: {"dice": n / 4, "hd95_mm": 1.0}, "Gone": None} for n in (1, 3)}
    summary = {"metrics": {"dice": figure(0.5), "hd95_mm": figure(3.0)}, "classes": classes}
    found = {"model": "m", "data": "d", "split": "validation", "protocol": HOSTILE, "cases": cases, "summary": summary}
    return json.dumps({**found, **changes})


def test_a_page_needs_nothing_but_itself(run):
    page = Page(report_run(run))
    assert references(page) == []
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    policies = [attributes["content"] for name, attributes in page.elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme: dark" in page.styles and "@media print" in page.styles


@pytest.mark.parametrize(
    "markup",
    [
        "<script>1</script>",
        '<img src="http://a/b.png">',
        '<p style="background: x">',
        "<style>a { b: url(c) }</style>",
        "<style>@import 'x'</style>",
        '<p onclick="x()">',
    ],
)
def test_the_check_of_references_can_fail(tmp_path, markup):
    (tmp_path / "page.html").write_text(markup + "</p>" * markup.startswith("<p"))
    assert references(Page(tmp_path / "page.html")) != []


def test_the_pictures_of_a_page_are_those_of_the_folder(run):
    draw_stage(run / "overlays.png", np.ones((4, 4, 4)), HOSTILE, (0, 1), (1.0, 1.0, 1.0))
    found = list(Page(report_run(run)).pictures().values())
    names = ["curves.png", *(f"reconstructions/{name}.png" for name in ("original", "masked"))]
    names += [f"reconstructions/step_{step:06}.png" for step in (3, 6, 12)] + ["overlays.png"]
    assert found == [(run / name).read_bytes() for name in names]


def test_names_are_text_whatever_is_in_them(run):
    (run / "metrics.json").write_text(evaluation())
    page = Page(report_run(run))
    assert {name for name, _ in page.elements}.isdisjoint({"script", "b", "a"})
    assert page.row(HOSTILE)[:2] == ["0.500 \u00b1 0.250", "3.000 \u00b1 1.000"]
    assert page.row(f"{HOSTILE} 3") == ["0.750", "\u2013"]
    assert page.row("validation loss") == ["0.1250", HOSTILE, HOSTILE]
    assert page.text["pre"] == f"mimzoo pretrain {HOSTILE}"
    assert page.text["p"].count(HOSTILE) == 2  # the card's text and the protocol


def test_attributes_are_text_too(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page("", element("p", HOSTILE, title=HOSTILE)))
    assert ("p", {"title": HOSTILE}) in Page(path).elements and Page(path).text["p"] == HOSTILE


def test_a_page_tells_the_classes_the_recipe_and_the_sessions(run):
    (run / "metrics.json").write_text(evaluation())
    page = Page(report_run(run))
    assert ["class", "Dice", "HD95 (mm)", "cases", "absent"] in page.rows
    assert page.row("Gone") == ["\u2013", "\u2013", "0", "2"]
    assert page.row("mean (95 % interval)")[:2] == ["0.500 (0.400 to 0.600)", "3.000 (2.900 to 3.100)"]
    assert page.row("lr") == ["0.001"] and page.row("args.ratio") == ["0.6"] and page.row("crop") == ["[16, 16, 16]"]
    sessions = [row for row in page.rows if row[0].startswith("2026")]
    assert [row[1:3] for row in sessions] == [["0 to 3", "1 h 6 min"], ["3 to 6", "1 h 6 min"]]
    assert sessions[0][3] == f"2 x {HOSTILE}" and sessions[0][-1] == "torch 9.9"
    assert "2 h 13 min" in page.text["dl"] and str(run) in page.text["section"]
    assert page.row("history.csv")[0] == "every recorded figure"


@pytest.mark.parametrize(
    ("summary", "case", "rows"),
    [
        (
            {
                "accuracy": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4},
                "auc": {"value": None, "low": None, "high": None, "n": 4},
                "sensitivity": {HOSTILE: {"value": 1.0, "low": None, "high": None, "n": 1}},
                "absent": ["x"],
            },
            {"truth": 1.0, "told": {"a": 0.25, "b": 0.75}},
            {
                "accuracy": ["0.500", "(0.250 to 0.750)", "4"],
                "AUC": ["\u2013", "\u2013", "4"],
                f"sensitivity {HOSTILE}": ["1.000", "\u2013", "1"],
                "scan": ["1", "0.250", "0.750"],
            },
        ),
        (
            {"mean_absolute_error": {"value": 2.0, "low": 1.0, "high": 3.0, "n": 4}},
            {"truth": 70.5, "told": {"age": 71.25}},
            {"mean absolute error": ["2.000", "(1.000 to 3.000)", "4"], "scan": ["70.5", "71.250"]},
        ),
    ],
)
def test_classes_and_values_of_scans_have_tables_too(run, summary, case, rows):
    (run / "metrics.json").write_text(evaluation(summary=summary, cases={"scan": case}))
    page = Page(report_run(run))
    assert {first: page.row(first) for first in rows} == rows


def test_the_same_run_gives_the_same_page(run):
    first = report_run(run).read_bytes()
    assert report_run(run).read_bytes() == first
    (run / "history.csv").write_text("step,split,name,value\n3,training,loss,0.5\n")
    assert report_run(run).read_bytes() != first


def test_a_run_in_progress_says_how_far_it_is(run, tiny_encoder, tmp_path):
    write_card(override(tiny_encoder, ["pretraining.steps=50"]), run)
    assert "6 of 50" in Page(report_run(run)).text["dl"]
    write_card(tiny_encoder, tmp_path / "new")
    page = Page(report_run(tmp_path / "new"))
    assert "0 of 6" in page.text["dl"] and page.pictures() == {}
    assert "Sessions" not in page.text["h2"] and "Recipe" in page.text["h2"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metrics.json", "{", "is no evaluation .* mimzoo evaluate"),
        ("metrics.json", evaluation(cases=[]), "is no evaluation"),
        ("metrics.json", evaluation(summary={"classes": {}}), "is no evaluation"),
        ("sessions.json", "[1]", "sessions.json: 0: .*; remove it"),
        ("history.csv", "step,split,name,value\nx,training,loss,1\n", "line 2 begins with no step: 'x,training"),
        ("reconstructions/step_x.png", "", "no step is called 'x'"),
    ],
)
def test_damaged_files_are_named_and_leave_the_page(run, name, content, sentence):
    before = report_run(run).read_bytes()
    (run / name).write_text(content)
    with pytest.raises(DataError, match=sentence):
        report_run(run)
    assert (run / "report.html").read_bytes() == before


def test_a_folder_without_a_card_is_refused(tmp_path):
    with pytest.raises(CardError, match="holds no model card"):
        report_run(tmp_path)


def test_the_command_writes_it_again_without_torch(run, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "mimzoo", "report", str(run)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run / "report.html")
    assert "vit-mae-phantom" in Page(run / "report.html").text["h1"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (4000, "1 h 6 min")],
)
def test_lengths_of_time(seconds, words):
    assert duration(seconds) == words


# --- runs that train --------------------------------------------------------------------------------------------------


def test_pretraining_draws_one_crop_as_it_is_learned_and_is_not_changed_by_it(
    tiny_encoder, phantoms, tmp_path, monkeypatch
):
    card = override(tiny_encoder, ["encoder.args.drop_path=0.5"])
    pretrain(card, phantoms, tmp_path / "drawn")
    monkeypatch.setattr(pretraining, "stages", lambda *_: None)
    pretrain(card, phantoms, tmp_path / "plain")
    ours, theirs = (read_weights(tmp_path / name / "model.safetensors") for name in ("drawn", "plain"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    folder = tmp_path / "drawn" / "reconstructions"
    assert sorted(path.stem for path in folder.iterdir()) == ["masked", "original", "step_000003", "step_000006"]
    original, masked, early, late = (
        imread(folder / f"{name}.png")[48:, :, :3] for name in ("original", "masked", "step_000003", "step_000006")
    )
    hidden = np.abs(masked - to_rgb(HIDDEN)).max(-1) < 0.01
    # letters and bars are blended into what they are written on
    seen = ~hidden & (np.abs(masked - original).max(-1) < 0.01)
    assert hidden.mean() > 0.2 and seen.mean() > 0.2
    assert np.array_equal(early[seen], original[seen]) and np.array_equal(late[seen], original[seen])
    assert not np.array_equal(early[hidden], late[hidden])

    page = Page(tmp_path / "drawn" / "report.html")
    assert [name for name in page.pictures() if "step" in name] == ["The crop, step 3", "The crop, step 6"]
    assert page.row("seed") == ["0"] and "validation loss" in page.text["dl"]
    assert "steps6" in page.text["dl"] and "cpu" in page.text["dl"] + page.text["td"]


def test_a_long_run_draws_ten_stages_at_even_distances(tiny_encoder, tmp_path, monkeypatch):
    recipe = ["pretraining.steps=1000", "pretraining.validate_every=30"]
    example = Reconstruction(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), (1.0, 1.0, 1.0))
    monkeypatch.setattr(pretraining, "reconstruct_example", lambda *_: ("case", example))
    monkeypatch.setattr(pretraining, "draw_stage", lambda *_: None)
    draw = stages(None, override(tiny_encoder, recipe), tmp_path)
    steps = [step for step in [*range(30, 1000, 30), 1000] if draw(None, step)]
    assert len(steps) == 10 and steps[0] == 30 and steps[-1] == 1000
    assert [path.name for path in draw(None, 30)] == ["original.png", "masked.png", "step_000030.png"]
    assert max(np.diff(steps)) - min(np.diff(steps)) <= 60


def test_fine_tuning_shows_its_answers_and_evaluation_adds_its_figures(tiny_segmenter, phantoms, tmp_path):
    finetune(tiny_segmenter, phantoms, tmp_path / "seg")
    page = Page(tmp_path / "seg" / "report.html")
    assert list(page.pictures()) == ["Training curves", "Scans with truth and prediction"]
    assert not any("Liver" in row[:1] for row in page.rows)
    result, folder = evaluate(tmp_path / "seg", phantoms)
    page = Page(folder / "report.html")
    dice = result.summary.classes["Liver"].metrics["dice"]
    assert page.row("Liver")[0] == f"{dice.mean:.3f} \u00b1 {dice.std:.3f}"
    assert page.row("Dice")[0] == f"{result.summary.metrics['dice'].mean:.4f}"
    assert len([row for row in page.rows if row[0] in result.cases]) == 2
    assert result.protocol in page.text["p"]
