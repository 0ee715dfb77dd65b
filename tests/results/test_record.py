"""Result records: the two standard deviations, reading hostile files, leaderboard, submission."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graphkit import results
from graphkit.errors import CorruptFileError, InputError
from graphkit.recipes.schema import Published
from graphkit.results.record import ResultRecord, SeedResult, aggregate, mean_and_std
from graphkit.results.submission import refusals

FORM = {"contact": "A <a@b.org>", "code_url": "https://x.org/c", "paper_url": "https://x.org/p"}


def make_record(n: int = 10, std_kind: Any = "unbiased", **changes: Any) -> ResultRecord:
    seeds = [
        SeedResult(
            seed=s, test=0.7 + 0.02 * (s % 4), valid=0.8, best_epoch=3, epochs=5, seconds=60.0,
            peak_memory_bytes=10**9 + s,
        )
        for s in range(n)
    ]  # fmt: skip
    fields: dict[str, Any] = {
        "recipe": "ogbg-molhiv/gin_vn", "recipe_hash": "0" * 64, "overrides": [], "config": {},
        "method_name": "GIN+VN 5x300", "dataset": "ogbg-molhiv", "dataset_sha256": "1" * 64,
        "task_type": "binary", "split_kind": "official", "metric": "rocauc", "maximize": True,
        "evaluator": "ogb 1.3.6", "std_kind": std_kind, "model": "mpnn_vn", "model_args": {},
        "num_params": 3336606, "deterministic": True, "command": "graphkit run x",
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {
            "hardware": {"cpu": "C", "threads": 2, "gpus": []}, "versions": {"ogb": "1.3.6"},
        },
    }  # fmt: skip
    return ResultRecord(**{**fields, **aggregate(seeds, std_kind), **changes})


def test_standard_deviations_of_the_specification() -> None:
    values = [0.70, 0.72, 0.74, 0.76]
    assert mean_and_std(values, "unbiased") == (
        pytest.approx(0.73),
        pytest.approx(0.02582, abs=5e-6),
    )
    assert mean_and_std(values, "population")[1] == pytest.approx(0.02236, abs=5e-6)
    assert mean_and_std([0.5], "unbiased") == (0.5, None)
    record = make_record(4)
    assert record.test_std == record.test_std_unbiased == pytest.approx(0.02582, abs=5e-6)
    assert record.test_std_population == pytest.approx(0.02236, abs=5e-6)
    assert make_record(4, "population").test_std == pytest.approx(0.02236, abs=5e-6)


def test_record_comes_back_the_same(tmp_path: Path) -> None:
    record = make_record(3)
    (tmp_path / "result.json").write_text(record.to_json())
    assert results.read_record(tmp_path) == record
    assert results.read_record(tmp_path).to_json() == record.to_json()
    assert record.peak_memory_bytes == 10**9 + 2
    assert record.wall_seconds == 180


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"{}", b'{"format": "graphkit-result/1"}', b"[" * 100_000,
     b'{"format": "graphkit-result/9"}'],
)  # fmt: skip
def test_damaged_record_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(CorruptFileError, match="result.json"):
        results.read_record(tmp_path)


@pytest.mark.parametrize("key", ["test_mean", "seeds", "split_kind", "num_params"])
def test_record_without_a_field_is_refused(key: str, tmp_path: Path) -> None:
    content = json.loads(make_record().to_json())
    del content[key]
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(CorruptFileError, match=f"{key}: field is missing"):
        results.read_record(tmp_path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    text = make_record().to_json().replace('"valid_mean": 0.8', '"valid_mean": NaN')
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(CorruptFileError, match="valid_mean"):
        results.read_record(tmp_path)


def test_export_has_the_fields_of_the_form() -> None:
    fields = results.export(make_record(), counted=3336606, **FORM)
    assert fields["ogb_version"] == "1.3.6"
    assert fields["n_runs"] == 10
    assert fields["num_params"] == 3336606
    assert fields["external_data"] is False
    assert set(fields) >= {
        "ogb_version", "method_name", "dataset", "external_data", "test_mean", "test_std",
        "valid_mean", "valid_std", "n_runs", "contact", "code_url", "paper_url", "num_params",
        "official_implementation", "hardware",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "form", "reason"),
    [
        (make_record(), {"contact": ""}, "'contact' is missing"),
        (make_record(), {"code_url": " "}, "'code_url' is missing"),
        (make_record(9), {}, "9 seeds, the protocol wants 10"),
        (make_record(10, "population"), {}, "std_kind is 'population'"),
        (make_record(num_params=3336306), {}, "num_params is 3,336,306"),
        (make_record(split_kind="rebuilt"), {}, "split_kind is 'rebuilt'"),
        (make_record(split_kind="stand-in"), {}, "split_kind is 'stand-in'"),
        (make_record(data_kind="rebuilt"), {}, "data_kind is 'rebuilt'"),
        (make_record(dataset="demo"), {}, "no OGB or LRGB leaderboard"),
        (make_record(test_mean=0.99), {}, "test_mean is 0.99"),
        (make_record(valid_std=0.5), {}, "valid_std is 0.5"),
        (make_record(seeds=[1] * 10), {}, "do not fit"),
        (make_record(10, dataset="peptides-func"), {}, "wants 'population'"),
        (make_record(3, "population", dataset="peptides-func"), {}, "the protocol wants 4"),
    ],
)
def test_export_refuses_with_the_reason(
    record: ResultRecord, form: dict[str, str], reason: str
) -> None:
    with pytest.raises(InputError) as caught:
        results.export(record, counted=3336606, **{**FORM, **form})
    assert reason in str(caught.value)


def test_export_gives_all_reasons_at_once() -> None:
    reasons = refusals(make_record(3, split_kind="random"), {"contact": ""}, counted=1)
    assert len(reasons) == 4


def test_lrgb_wants_four_seeds_and_population_std() -> None:
    record = make_record(4, "population", dataset="peptides-func", metric="ap")
    assert results.export(record, counted=3336606, **FORM)["n_runs"] == 4


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(v) for k, v in attrs if k in ("src", "href")]


def test_tables_hold_ours_and_the_published() -> None:
    entry = Published(label="GIN-VN", metric="rocauc", value=0.7707, std=0.0149, source="OGB board")
    record = make_record(3, published=[entry])
    text = results.to_markdown([record])
    ours = next(line for line in text.splitlines() if "GIN+VN 5x300" in line)
    assert "| 3 | official |" in ours
    assert "0.7200 ± 0.0200" in ours
    assert "0.7707 ± 0.0149" in text
    assert text.index("0.7707") < text.index("0.7200 ±"), "best first"
    # Published figures of the other recipes of the data set stand there too.
    assert "0.7606 ± 0.0097" in text


def test_other_splits_stay_out_of_the_official_column() -> None:
    text = results.to_markdown([make_record(split_kind="stand-in")])
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    ours = next(line for line in text.splitlines() if "stand-in" in line)
    column = [c.strip() for c in head.split("|")].index("test")
    assert [c.strip() for c in ours.split("|")][column] == ""
    assert "0.7" in [c.strip() for c in ours.split("|")][column + 1]


def test_html_is_self_contained_and_escapes() -> None:
    evil = make_record(
        recipe="<script>alert(1)</script>", method_name="<img src=x onerror=alert(1)>",
        overrides=["model.x='\"><script>"],
    )  # fmt: skip
    page = results.to_html([evil, make_record(dataset="demo")])
    parser = _Tags()
    parser.feed(page)
    assert parser.links == []
    assert "script" not in parser.tags
    assert "img" not in parser.tags
    assert "http://" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert parser.tags.count("table") == 2
    markdown = results.to_markdown([evil])
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_collect_reads_runs_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    good, broken, foreign = (tmp_path / d / "m" for d in ("a", "b", "c"))
    for folder in (good, broken, foreign):
        (folder / "0").mkdir(parents=True)
    (good / "result.json").write_text(make_record().to_json())
    (good / "0" / "result.json").write_text('{"format": "graphkit-seed/1"}')
    (broken / "result.json").write_text("{")
    (foreign / "result.json").write_text('{"score": 1}')
    records, problems = results.collect([tmp_path])
    assert [r.dataset for r in records] == ["ogbg-molhiv"]
    assert len(problems) == 1
    assert str(broken) in problems[0]
    with pytest.raises(InputError, match="no such file or folder"):
        results.collect([tmp_path / "nowhere"])


def test_no_records_says_how_to_make_one() -> None:
    assert "graphkit run demo/gcn" in results.to_markdown([])
    assert "graphkit run demo/gcn" in results.to_html([])
