"""The page of a report tells what the folders hold, and nothing else happens."""

import html
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments import (
    per_device,
    report,
    report_figures,
    report_folder,
    report_groups,
    report_maps,
    report_page,
    report_tables,
)
from permfl_jax import results
from permfl_jax.errors import InputError
from permfl_jax.partitions import ownership

ROOT = pathlib.Path(__file__).parents[2]
TEAM = np.array([2, 0, 1, 0, 2, 2, 1], np.int32)
CLASSES = 4
FLAGS = {
    "dataset": "digits",
    "model": "mclr",
    "algorithm": "permfl",
    "team_sizes": [2, 2, 3],
    "hparam": ["device_lr=0.05", "team_lr=0.3"],
    "num_rounds": 6,
    "seed": 0,
    "chips": None,
}
SENT = {"device_up": 700, "device_down": 600, "team_up": 30, "team_down": 20}


def accuracy(label, round_, seed):
    return 0.9 - 0.1 * ["GM", "TM", "PM"].index(label) - 0.4 / round_ - 0.01 * seed


def row(round_, seed):
    found = {"round": round_}
    for label in ("PM", "TM", "GM"):
        found[f"{label}/accuracy"] = accuracy(label, round_, seed)
        found[f"{label}/loss"] = 2 / round_ + seed
        found[f"{label}/device_mean_accuracy"] = accuracy(label, round_, seed) - 0.01
        found[f"{label}/worst_decile_accuracy"] = 0.25
    return found | {f"bytes/{part}": n * round_ for part, n in SENT.items()}


def deal(seed, team):
    """Who has which of the rows, and their classes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 9, len(team))
    sizes[0] = 2  # without test samples
    ends = np.cumsum(sizes)
    parts = np.split(rng.permutation(int(ends[-1])), ends[:-1])
    cut = [np.split(rows, [len(rows) // 3, 2 * (len(rows) // 3)]) for rows in parts]
    test, validation, train = zip(*cut, strict=True)
    owned = ownership.Ownership(list(train), list(validation), list(test), team)
    labels = rng.integers(0, CLASSES, int(ends[-1]))
    classes = [np.bincount(labels[rows], minlength=CLASSES) for rows in parts]
    return owned, np.array(classes, np.int32)


def make(path, *, rounds=6, finished=True, config=None, team=TEAM, **changed):
    """A folder as a run leaves it, by the code that writes those of runs."""
    given = FLAGS | changed
    seed = given["seed"]
    folder = results.Workdir(path, given)
    owned, classes = deal(seed, team)
    sha256 = ownership.digest(owned)
    folder.write_config({"partition": {"sha256": sha256}} | (config or {}))
    folder.write_partition(owned)
    devices = {"partition": np.array(sha256), "classes": classes}
    for round_ in range(1, rounds + 1):
        folder.write_row(row(round_, seed))
    if finished:
        last, best = row(rounds, seed), {"round": 3, "accuracy": 0.5}
        floors = {"majority/accuracy": 0.125, "local/accuracy": 0.375}
        floors |= {"local/device_mean_accuracy": 0.25, "local/loss": 1.5}
        folder.write_summary(
            {"last": last, "best_by_validation": {"PM": best}, "floors": floors}
        )
        count = np.array([len(rows) for rows in owned.test], np.int32)
        devices |= {"round": np.array(rounds), "count": count}
        devices |= {"correct/PM": count // 2, "correct/GM": count // 3}
    np.savez(folder.path / per_device.NAME, **devices)
    return folder.path


def read(*paths):
    return [report_folder.read(str(path)) for path in paths]


class Tags(html.parser.HTMLParser):
    """All tags, ids, links and table rows of a page; it must be well nested."""

    EMPTY = frozenset({"meta", "img", "br", "path", "use", "image", "rect"})

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.rows = [], [], [], []
        self.cell = False
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.cell = tag in ("td", "th")
        if self.cell:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag, tag
        self.cell = False

    def handle_data(self, text):
        if self.cell:
            self.rows[-1][-1] += text

    def rows_of(self, heading):
        return [cells[1:] for cells in self.rows if cells[0] == heading]

    def all_of(self, name):
        return [value for key, value in self.attributes if key == name]


def check_whole(page):
    """It needs nothing else, runs nothing, and all its links lead somewhere."""
    tags = Tags(page.html)
    ids = tags.all_of("id")
    assert len(set(ids)) == len(ids)
    for link in tags.all_of("href"):
        inside = link.startswith("#") and link[1:] in ids
        assert inside or link.startswith("data:image/png;base64,"), link
    for name in re.findall(r"url\((.*?)\)", page.html):
        assert name.startswith("#"), name
        assert name[1:] in ids
    assert not re.search(r"https?://|@import|xlink", page.html)
    assert not {"script", "img", "iframe", "object", "link", "base"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert not tags.all_of("src")
    assert tags.tags.count("svg") == len(page.drawings)
    names = [drawing.name for drawing in page.drawings]
    assert len(set(names)) == len(names)
    assert len(tags.all_of("aria-label")) >= len(names)
    for drawing in page.drawings:
        assert f"fig-{drawing.name}" in ids
        assert drawing.png.startswith(b"\x89PNG")
        assert "#0072b2" not in drawing.svg
        assert "currentColor" in drawing.svg
    return tags


ALL = {"curve-accuracy", "curve-loss", "devices", "classes-0", "teams-0", "traffic"}


def test_a_page_of_one_run_has_everything(tmp_path):
    page = report_page.page(read(make(tmp_path / "run")))
    tags = check_whole(page)
    assert {drawing.name for drawing in page.drawings} == ALL
    assert "<h1>digits, mclr, permfl</h1>" in page.html
    assert "1 run, finished" in page.html
    assert "<aside" not in page.html
    last = [100 * accuracy("PM", 6, 0)]
    expected = [f"{last[0]:.2f}", f"{last[0] - 1:.2f}", "25.00", "0.333"]
    assert tags.rows_of("PM, personal models") == [[*expected, "50.00 (round 3)"]]
    assert tags.rows_of("GM, global model")[0][-1] == "–"
    floor = ["37.50", "25.00", "–", "1.500", "–"]
    assert tags.rows_of("floor: each device alone") == [floor]
    assert tags.rows_of("floor: majority label")[0][0] == "12.50"
    assert tags.rows_of("digits, mclr, permfl") == [
        ["700 bytes", "600 bytes", "30 bytes", "20 bytes", "8.1 kB"]
    ]
    assert tags.rows_of("hparam team_lr") == [["0.3"]]
    assert tags.rows_of("chips") == [["default"]]
    for fact in ("commit", "machine cpu_count", "jax", "python"):
        assert tags.rows_of(fact)


def test_seeds_are_a_mean_and_a_band(tmp_path):
    runs = read(*(make(tmp_path / str(s), seed=s, chips=s + 1) for s in (0, 1, 5)))
    (group,) = report_groups.group(runs)
    found = report_groups.curve(group, "TM/accuracy")
    values = np.array([[accuracy("TM", t, s) for t in range(1, 7)] for s in (0, 1, 5)])
    assert found.rounds.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.low, values[2])
    np.testing.assert_allclose(found.high, values[0])
    page = report_page.page(runs)
    tags = check_whole(page)
    # Student's t for 2 degrees of freedom, 95 %: 4.3027; deviation of 0, 1, 5: √7.
    half = 4.3027 * np.sqrt(7) / np.sqrt(3)
    shown = tags.rows_of("PM, personal models")[0][0]
    assert shown == f"{100 * accuracy('PM', 6, 2):.2f} ± {half:.2f}"
    assert tags.rows_of("seed") == [["0, 1, 5"]]
    assert "seeds 0, 1, 5" in page.html


def test_a_curve_ends_where_a_seed_has_not_come(tmp_path):
    runs = read(
        make(tmp_path / "a"), make(tmp_path / "b", seed=1, rounds=2, finished=False)
    )
    (group,) = report_groups.group(runs)
    assert report_groups.curve(group, "PM/loss").rounds.tolist() == [1, 2]
    page = report_page.page(runs)
    check_whole(page)
    assert "runs have come to different rounds (2, 6)" in page.html
    assert f"unfinished: {tmp_path}/b at round 2 of 6" in page.html


def test_settings_that_differ_make_groups_and_stand_first(tmp_path):
    methods = ("permfl", "fedavg")
    paths = [
        make(tmp_path / f"{m}{s}", seed=s, algorithm=m, hparam=[f"device_lr={m[0]}"])
        for m in methods
        for s in (0, 1)
    ]
    page = report_page.page(read(*paths))
    tags = check_whole(page)
    names = {drawing.name for drawing in page.drawings}
    assert {f"curve-loss-{tier}" for tier in ("PM", "TM", "GM")} <= names
    assert "classes-1" not in names  # the same data
    settings = tags.rows[[cells[0] for cells in tags.rows].index("flag") :]
    assert settings[:4] == [
        ["flag", "permfl", "fedavg"],
        ["algorithm", "permfl", "fedavg"],
        ["hparam device_lr", "p", "f"],
        ["seed", "0, 1", "0, 1"],
    ]
    assert page.html.count('<tr class="differs">') == 3
    groups = report_groups.group(read(*paths, make(tmp_path / "x", num_rounds=7)))
    assert [group.label for group in groups] == [
        "permfl, device_lr=p",
        "fedavg, device_lr=f",
        "permfl, device_lr=0.05",
    ]


def test_a_seed_twice_is_told(tmp_path):
    page = report_page.page(read(make(tmp_path / "a"), make(tmp_path / "b")))
    assert "some runs have the same seed (0, 0)" in page.html


def test_more_settings_than_can_be_told_apart_are_refused(tmp_path):
    runs = [read(make(tmp_path / str(n), num_rounds=6 + n))[0] for n in range(25)]
    assert len(report_groups.group(runs[:24])) == 24
    with pytest.raises(InputError, match="25 different settings"):
        report_groups.group(runs)


def test_the_map_counts_what_a_loop_counts(tmp_path):
    (run,) = read(make(tmp_path / "run"))
    _, classes = deal(0, TEAM)
    expected = np.zeros((3, CLASSES), int)
    for device, team in enumerate(TEAM):
        for label in range(CLASSES):
            expected[team, label] += classes[device, label]
    assert report_maps.by_team(run).tolist() == expected.tolist()
    share = max(max(counts) / sum(counts) for counts in expected.tolist())
    assert report_maps.largest_share(run) == pytest.approx(share)
    drawn = report_maps.class_map(run, "name", "title")
    shown = re.findall(r"<text[^>]*>(\d+)</text>", drawn.svg)
    for count in expected.ravel().tolist():
        assert str(count) in shown


def test_teams_are_listed_with_their_devices(tmp_path):
    (run,) = read(make(tmp_path / "run"))
    owned, _ = deal(0, TEAM)
    held = [sum(len(part[d]) for part in owned[:3]) for d in range(7)]
    cells = Tags(report_tables.teams(run)).rows_of("2")[0]
    assert cells[:2] == ["3", str(held[0] + held[4] + held[5])]
    assert cells[3] == "0, 4, 5"
    assert report_maps.told(run) == f"7 devices in 3 teams, {sum(held)} samples"


def test_accuracies_are_those_of_devices_with_test_samples(tmp_path):
    runs = read(*(make(tmp_path / str(s), seed=s) for s in (0, 1)))
    (group,) = report_groups.group(runs)
    expected = []
    for seed in (0, 1):
        for rows in deal(seed, TEAM)[0].test:
            expected += [len(rows) // 2 / len(rows)] if len(rows) else []
    assert len(expected) == 12
    assert report_figures.accuracies(group, "PM").tolist() == expected
    assert report_figures.accuracies(group, "TM").tolist() == []


def test_many_devices_are_shown_together(tmp_path):
    team = np.arange(2400, dtype=np.int32) % 300
    page = report_page.page(read(make(tmp_path / "run", team=team)))
    check_whole(page)
    assert len(page.html) < 500_000
    assert "<details>" not in page.html
    assert "2,400 devices in 300 teams" in page.html
    few = np.arange(80, dtype=np.int32) % 40
    page = report_page.page(read(make(tmp_path / "few", team=few)))
    assert "<details>" in page.html


def test_the_command_names_the_module():
    def shown(*words):
        return report_tables._command(["python", *words])

    assert shown("/x y/experiments/train.py", "--a=b c", "--seed=1") == (
        "python -m experiments.train '--a=b c' --seed=1"
    )
    inside = "/site-packages/permfl_jax/experiments/train.py"
    assert shown(inside) == "python -m permfl_jax.experiments.train"
    assert shown("/bin/permfl-train", "--seed=1") == "permfl-train --seed=1"
    assert shown() is None
    assert report_tables._command({"a": 1}) is None


# What a page says without a file, and the figures that it does not have then.
ABSENT = {
    "summary.json": ("The run is unfinished: there is no summary.json.", set()),
    "devices.npz": ("There is no devices.npz, so neither", {"devices", "classes-0"}),
    "partition.npz": (
        "There is no partition.npz, so nothing of teams is shown.",
        {"devices", "classes-0", "teams-0"},
    ),
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_missing_is_said(tmp_path, name):
    path = make(tmp_path / "run")
    (path / name).unlink()
    page = report_page.page(read(path))
    check_whole(page)
    said, figures = ABSENT[name]
    assert said in page.html
    assert {drawing.name for drawing in page.drawings} == ALL - figures
    assert ("unfinished" in page.html) == (name == "summary.json")


def test_a_run_that_just_began_has_a_page(tmp_path):
    path = make(tmp_path / "run", rounds=0, finished=False)
    page = report_page.page(read(path))
    check_whole(page)
    assert {drawing.name for drawing in page.drawings} == {"classes-0", "teams-0"}
    assert "at round 0 of 6" in page.html
    assert "There is no evaluation yet." in page.html
    assert "Devices are scored one by one only when a run ends." in page.html


def test_rows_without_bytes_are_told(tmp_path):
    path = make(tmp_path / "run")
    text = (path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    kept = [{k: v for k, v in r.items() if "bytes/" not in k} for r in lines]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    page = report_page.page(read(path))
    check_whole(page)
    assert {drawing.name for drawing in page.drawings} == ALL - {"traffic"}
    assert "metrics.jsonl has no bytes" in page.html


def test_a_torn_last_line_is_left_out(tmp_path):
    path = make(tmp_path / "run", finished=False)
    whole = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(whole[:-20])
    (run,) = read(path)
    assert [r["round"] for r in run.rows] == [1, 2, 3, 4, 5]
    page = report_page.page([run])
    assert "The last line of metrics.jsonl is torn" in page.html
    (path / "metrics.jsonl").write_text(whole[:30] + "\n" + whole)
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged: line 1 is no ev"):
        read(path)


def put(name, content):
    def change(path):
        (path / name).write_bytes(content)

    return change


def swap_rows(path):
    first, second, *rest = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join([second, first, *rest]))


def edit(name, old, new):
    def change(path):
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new))

    return change


def other_devices(path):
    other = make(path.parent / "other", seed=9)
    shutil.copy(other / per_device.NAME, path / per_device.NAME)


def change_devices(**changes):
    def change(path):
        with np.load(path / per_device.NAME) as arrays:
            found = dict(arrays)
        for name, function in changes.items():
            found[name] = function(found[name])
        np.savez(path / per_device.NAME, **found)

    return change


def pipe(name):
    def change(path):
        (path / name).unlink()
        os.mkfifo(path / name)

    return change


def no_file(name):
    return lambda path: (path / name).unlink()


DAMAGED = {
    "no config": (no_file("config.json"), "holds no run: there is no config.json"),
    "no rows": (no_file("metrics.jsonl"), "holds no run: there is no metrics.jsonl"),
    "no json": (put("config.json", b"{"), "config.json is damaged: it is no JSON"),
    "no text": (put("config.json", b"\xff"), "config.json is damaged: it is no text"),
    "a list": (put("config.json", b"[]"), "config.json is damaged: it holds no obj"),
    "no flags": (put("config.json", b"{}"), "config.json is damaged."),
    "deep": (put("config.json", b'{"a":' + b"[" * 10**5), "config.json is damaged"),
    "less deep": (
        edit("config.json", '"seed": 0,', '"seed": ' + "[" * 30 + "]" * 30 + ","),
        "config.json is damaged: its objects hold objects without end",
    ),
    "a long number": (
        edit("config.json", '"chips": null', '"chips": 1' + "0" * 5000),
        "config.json is damaged",
    ),
    "a pipe": (pipe("config.json"), "config.json is no ordinary file"),
    "a pipe of devices": (pipe("devices.npz"), "devices.npz is no ordinary file"),
    "a pipe of teams": (pipe("partition.npz"), "partition.npz is no ordinary file"),
    "order": (swap_rows, "metrics.jsonl is damaged: line 2 is of round 1, out of"),
    "a sweep": (
        edit("metrics.jsonl", '"round": 1,', '"round": 1, "member": 0,'),
        "metrics.jsonl is damaged: line 1 is no evaluation",
    ),
    "words": (
        edit("metrics.jsonl", '"round": 2,', '"round": 2, "x": "1",'),
        "metrics.jsonl is damaged: line 2 is no evaluation",
    ),
    "an overflow": (
        edit("metrics.jsonl", '"round": 2,', '"round": 2, "x": 1' + "0" * 400 + ","),
        "metrics.jsonl is damaged: line 2 is no evaluation",
    ),
    "half a summary": (put("summary.json", b'{"last": {}}'), "it has no 'best_by_val"),
    "another summary": (
        edit("summary.json", '"round": 6', '"round": 5'),
        "summary.json is damaged: its last round is not that of metrics.jsonl",
    ),
    "cut teams": (
        put("partition.npz", b"PK\x03\x04"),
        "partition.npz is not a partition file",
    ),
    "other teams": (
        edit("config.json", '"sha256": "', '"sha256": "0'),
        "partition.npz that is not the one of its config.json",
    ),
    "cut devices": (put("devices.npz", b"PK"), "holds a damaged devices.npz"),
    "devices of another partition": (
        change_devices(partition=lambda _: np.array("0" * 64)),
        "devices.npz is damaged: it is not of this part",
    ),
    "devices in another order": (
        change_devices(classes=lambda classes: classes[::-1]),
        "devices.npz is damaged: it is not of this part",
    ),
    "other devices": (other_devices, "devices.npz is damaged: it is not of this part"),
}


@pytest.mark.parametrize(("change", "sentence"), DAMAGED.values(), ids=list(DAMAGED))
def test_damage_is_told_in_one_sentence(tmp_path, change, sentence):
    path = make(tmp_path / "run")
    read(path)
    change(path)
    with pytest.raises(InputError) as caught:
        report.write([str(path)])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (path / "report.html").exists()


# A number that no figure can show, a method without scores.
STRANGE = [
    edit("metrics.jsonl", '"PM/loss": 1.0', '"PM/loss": NaN'),
    edit("metrics.jsonl", '"PM/loss": 1.0', '"PM/loss": 1e300'),
    edit("metrics.jsonl", '"PM/loss": 1.0', '"PM/loss": -Infinity'),
    edit("metrics.jsonl", '"PM/loss": 1.0', '"PM/loss": 1e7'),
    edit("metrics.jsonl", "M/accuracy", "?/accuracy"),
    edit("metrics.jsonl", "bytes/device_up", "bytes/x"),
    edit("summary.json", '"accuracy": 0.5', '"accuracy": "high"'),
    edit("summary.json", '"majority/accuracy": 0.125', '"x": 1e400'),
]


@pytest.mark.parametrize("change", STRANGE)
def test_strange_numbers_leave_a_page(tmp_path, change):
    path = make(tmp_path / "run")
    change(path)
    check_whole(report_page.page(read(path)))


HOSTILE = (
    '</title></style></svg><script>document.title="owned"</script>'
    "\"><img src=x onerror=alert(1)> ' & &lt; $\\frac{ \0\x1b\u202e \U0001f600 漢"
    ' id="results" url(#x) xlink:href="#x" <!-- -->'
)


def hostile(folder):
    """Two runs with a script wherever a file or a folder has words."""
    config = {
        "command": ["python", HOSTILE, HOSTILE],
        "git_commit": HOSTILE,
        "machine": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: [HOSTILE]},
    }
    name = HOSTILE.replace("/", "-").replace("\0", "")
    changed = dict.fromkeys(("dataset", "model", "algorithm"), HOSTILE)
    hparam = [f"{HOSTILE}={HOSTILE}"]
    one = make(folder / name, config=config, hparam=hparam, **changed)
    return one, make(folder / "other", config=config, **{HOSTILE: HOSTILE})


def test_words_of_files_stay_words(tmp_path):
    for paths in (hostile(tmp_path), hostile(tmp_path)[:1]):
        page = report_page.page(read(*paths))
        text = page.html.replace("xlink:href=&quot;#x", "").replace("xlink:href", "")
        tags = check_whole(page._replace(html=re.sub(r"url\(#x\)", "", text)))
        assert "owned" in page.html
        assert tags.tags.count("title") == 1


def command(*args, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "experiments.report", *map(str, args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_writes_a_page_and_pngs(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b", seed=1)
    done = command(first)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{first}/report.html\nfigures: {first}/report_files/\n"
    files = {path.name for path in (first / "report_files").iterdir()}
    assert files == {f"{name}.png" for name in ALL}
    # The same again, and for several the folder that one is in.
    before = (first / "report.html").read_bytes()
    done = command("a", "b", "--png_dir=pictures", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "report.html").exists()
    assert len(list((tmp_path / "pictures").iterdir())) == len(ALL)
    report.write([str(first)], str(tmp_path / "new" / "page.html"))
    assert (tmp_path / "new" / "page.html").read_bytes() == before
    assert (tmp_path / "new" / "page_files").is_dir()
    assert second.exists()


def test_mistakes_end_in_one_sentence(tmp_path):
    path = make(tmp_path / "a")
    done = command(tmp_path / "missing")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("experiments.report: ")
    for names, output, sentence in (
        ([], None, "Name the folder of a run, or several"),
        ([path, f"{path}/"], None, "is named twice"),
        ([path], f"{path}/config.json", "config.json must end in .html"),
        ([path], f"{path}/config.json/x.html", "--png_dir="),
        ([path / "config.json"], None, "there is no config.json in it"),
        (["a\0b"], None, "a\0b"),
    ):
        with pytest.raises(InputError) as caught:
            report.write(list(map(str, names)), output)
        assert sentence in str(caught.value)
    (path / "x.html").mkdir()
    with pytest.raises(InputError, match=r"--output=.* cannot be written"):
        report.write([str(path)], str(path / "x.html"), str(tmp_path / "png"))


def chromium():
    named = os.environ.get("PERMFL_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser: none of {', '.join(names)} is there (PERMFL_CHROMIUM)")
    return None


def browse(page, *args, scheme="light", width=390):
    """Opens a file, offline; what it prints, and all that it complains of."""
    done = subprocess.run(
        [
            chromium(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            f"--window-size={width},3000",
            "--virtual-time-budget=3000",
            "--enable-logging=stderr",
            "--v=0",
            *args,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, complaints


# What a reader would see, told by the browser itself.
PROBE = """<script>
addEventListener("load", () => {
  const all = (what) => [...document.querySelectorAll(what)];
  const style = (name) => (e) => getComputedStyle(e)[name];
  const box = (e) => e.getBoundingClientRect();
  const lines = all("svg.plot [id*=line2d] > path");
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    paper: style("backgroundColor")(document.body),
    figures: all("svg.plot").map((e) => [e.id, box(e).width, box(e).height]),
    beyond: all("main > section > :not(.wide), figure, pre, nav, h1")
      .filter((e) => box(e).right > innerWidth + 0.5).map((e) => e.outerHTML),
    words: all("svg.plot text, body, a, th, td, p").map(style("color")),
    drawn: all("svg.plot text").map(style("fill")),
    lines: lines.map(style("stroke")).filter((e) => e.startsWith("rgb(")),
    small: all("svg.plot text").filter((e) => box(e).height < 9).length,
    title: document.title,
  }), "*");
});
</script>"""
# A window is at least 500 pixels wide; a frame is as narrow as a phone.
FRAME = """<!DOCTYPE html><html><head><meta charset="utf-8">
<style>:root{{color-scheme:light dark}} iframe{{border:0;height:3000px;width:{}px}}
</style>
<script>addEventListener("message", (event) => {{
  document.documentElement.dataset.probe = event.data;
}});</script></head><body><iframe src="asking.html"></iframe></body></html>"""


def probed(page, width=390, **how):
    """The page as a browser has it, asked by a script that pages never hold."""
    text = page.read_text(encoding="utf-8")
    policy = re.search(r"<meta http-equiv=[^>]*>", text)[0]
    asking = page.with_name("asking.html")
    asking.write_text(text.replace(policy, "").replace("</body>", PROBE + "</body>"))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width))
    said, complaints = browse(frame, "--dump-dom", width=width + 100, **how)
    assert complaints == []
    return json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', said)[1]))


def contrast(one, other):
    """Of two CSS colours, as WCAG 2 defines it."""

    def luminance(colour):
        rgb = np.array([float(n) for n in re.findall(r"[\d.]+", colour)[:3]]) / 255
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    low, high = sorted([luminance(one), luminance(other)])
    return high / low


def test_contrast_is_that_of_wcag():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(
        4.48, abs=0.01
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Of one run, and of a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    one, _ = report.write([str(make(folder / "one"))])
    several = [make(folder / f"m{s}", seed=s) for s in (0, 1)]
    long = "a_rather_long_name_of_a_method_that_somebody_chose"
    several.append(make(folder / "other", algorithm=long, finished=False))
    two, _ = report.write(list(map(str, several)), str(folder / "two.html"))
    return {"one": one, "two": two}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["one", "two"])
def test_a_browser_shows_every_figure(pages, name, width, scheme):
    found = probed(pages[name], width=width, scheme=scheme)
    assert found["width"] == width
    assert found["content"] <= width
    assert found["beyond"] == []
    drawn = re.findall(r'<svg class="plot" id="([^"]*)"', pages[name].read_text())
    assert [figure[0] for figure in found["figures"]] == drawn
    assert len(drawn) >= len(ALL)
    for _, wide, high in found["figures"]:
        assert 300 < wide < width
        assert 150 < high < 700
    dark = contrast(found["paper"], "rgb(255, 255, 255)") > 15
    assert dark == (scheme == "dark")
    for colour in {*found["words"], *found["drawn"]}:
        assert contrast(colour, found["paper"]) > 4.5, colour
    assert len(set(found["lines"])) >= 3
    for colour in set(found["lines"]) - {"rgb(223, 226, 230)", "rgb(51, 56, 63)"}:
        assert contrast(colour, found["paper"]) > 3, colour
    assert found["small"] == 0


def test_a_browser_has_nothing_to_complain_of(pages, tmp_path):
    for page in pages.values():
        assert browse(page, "--dump-dom")[1] == []
    # It would say so.
    for name, more in {
        "script": "<script>x</script>",
        "picture": '<img src="https://example.org/x.png">',
    }.items():
        broken = tmp_path / f"{name}.html"
        text = pages["one"].read_text(encoding="utf-8")
        broken.write_text(text.replace("</body>", f"{more}</body>"), encoding="utf-8")
        assert browse(broken, "--dump-dom")[1], name


def test_a_browser_runs_nothing_that_a_file_smuggles_in(tmp_path):
    page, _ = report.write(list(map(str, hostile(tmp_path))), str(tmp_path / "x.html"))
    found = probed(page)
    assert found["title"].startswith("Comparison of 2 settings: ")
    assert found["title"] != "owned"
    assert found["content"] <= 390
    assert browse(page, "--dump-dom")[1] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_is_drawn_in_the_scheme(pages, scheme, tmp_path):
    from PIL import Image

    path = tmp_path / "shot.png"
    browse(pages["one"], f"--screenshot={path}", scheme=scheme, width=600)
    with Image.open(path) as shot:
        pixels = np.asarray(shot.convert("RGB"))
    assert pixels.shape == (3000, 600, 3)
    assert pixels[2, 2].tolist() == {"light": [255] * 3, "dark": [20, 22, 26]}[scheme]
    # Every stripe of the page's first part has something on it.
    stripes = (pixels != pixels[2, 2]).any(axis=(1, 2))[:2000].reshape(-1, 100)
    assert stripes.any(axis=1).all()
