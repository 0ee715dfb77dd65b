"""Archives, pickles, caches and downloads that would do harm are refused with one clear error."""

import io
import os
import pickle
import stat
import tarfile
import threading
import warnings
import zipfile

import pytest
import torch

from graphkit import data
from graphkit.data.archives import Limits, extract, read_members
from graphkit.data.cache import cached, read_parsed, save_parsed
from graphkit.data.dataset import Parsed
from graphkit.data.download import fetch
from graphkit.data.restricted_pickle import read_planetoid_pickle
from graphkit.errors import CorruptFileError, DatasetNotFoundError, InputError
from graphkit.storage import sha256_file


def make_zip(path, names, content=b"x"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name) if isinstance(name, str) else name
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
    return path


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt"]
)
def test_members_that_leave_the_folder(tmp_path, name):
    inside = tmp_path / "inside"
    for archive in (
        make_zip(tmp_path / "a.zip", [name]),
        make_tar(tmp_path / "a.tar.gz", [(tarfile.TarInfo(name), b"x")]),
    ):
        with pytest.raises(CorruptFileError, match="outside the archive"):
            extract(archive, inside)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == []


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_tar(tmp_path, kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    archive = make_tar(tmp_path / "a.tar.gz", [(info, b"")])
    with pytest.raises(CorruptFileError, match="link or device"):
        extract(archive, tmp_path / "inside")


def test_links_in_zip(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(CorruptFileError, match="link or device"):
        extract(make_zip(tmp_path / "a.zip", [info], b"/etc"), tmp_path / "inside")


def test_writing_through_a_link_that_is_already_there(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/way").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptFileError, match="outside"):
        extract(make_zip(tmp_path / "a.zip", ["way/file"]), tmp_path / "inside")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("names", [["a", "a"], ["Data/x", "data/X"]])
def test_duplicates(tmp_path, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive = make_zip(tmp_path / "a.zip", names)
    with pytest.raises(CorruptFileError, match="occurs twice"):
        read_members(archive)


def test_bombs(tmp_path):
    many = make_zip(tmp_path / "many.zip", [str(number) for number in range(50)])
    with pytest.raises(CorruptFileError, match="50 members, at most 10"):
        read_members(many, Limits(members=10))
    dense = make_zip(tmp_path / "dense.zip", ["zeros"], bytes(30_000_000))
    with pytest.raises(CorruptFileError, match="400 times"):
        read_members(dense)
    with pytest.raises(CorruptFileError, match="more than 1000 bytes"):
        read_members(dense, Limits(total_bytes=1000))


def test_damaged_archives(tmp_path):
    good = make_zip(tmp_path / "a.zip", ["name"], os.urandom(5000)).read_bytes()
    for cut in (0, 1, 20, len(good) // 2, len(good) - 1):
        path = tmp_path / f"cut{cut}.zip"
        path.write_bytes(good[:cut])
        with pytest.raises(CorruptFileError):
            read_members(path)
    flipped = bytearray(good)
    flipped[100] ^= 255
    path.write_bytes(bytes(flipped))
    with pytest.raises(CorruptFileError):
        read_members(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(CorruptFileError, match="not a readable archive"):
        read_members(path)


class Shell:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


@pytest.mark.parametrize("payload", [Shell(), print, io.BytesIO, OSError("x")])
def test_pickles_that_name_anything_else_are_refused(tmp_path, payload, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ind.cora.x"
    path.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(CorruptFileError, match="is not allowed"):
        read_planetoid_pickle(path, sha256_file(path))
    assert not (tmp_path / "pwned").exists()


def test_a_pickle_with_another_checksum_is_not_opened(tmp_path):
    path = tmp_path / "ind.cora.x"
    path.write_bytes(pickle.dumps([1], protocol=2))
    with pytest.raises(CorruptFileError, match="not opened"):
        read_planetoid_pickle(path, "0" * 64)


def small() -> Parsed:
    demo = data.load("demo")
    return Parsed(demo.graphs.select(range(5)), [{"train": torch.arange(5)}], info={"num_tasks": 1})


def test_cache_round_trip_keeps_everything(tmp_path):
    parsed = small()
    parsed.links["train/edge"] = torch.tensor([[0], [1]])
    parsed.extra["x/author"] = torch.rand(3, 2)
    wide = torch.zeros(parsed.graphs.num_nodes, 20_000)
    wide[3, 7] = 2.5
    parsed.graphs = parsed.graphs.with_attributes(node={"bag": wide})
    save_parsed(tmp_path / "a.safetensors", parsed)
    again = read_parsed(tmp_path / "a.safetensors")
    for key in parsed.graphs.kinds:
        assert torch.equal(getattr(again.graphs, key), getattr(parsed.graphs, key)), key
    assert torch.equal(again.graphs.edge_index, parsed.graphs.edge_index)
    assert torch.equal(again.splits[0]["train"], torch.arange(5))
    assert torch.equal(again.extra["x/author"], parsed.extra["x/author"])
    assert again.info == {"num_tasks": 1}
    assert (tmp_path / "a.safetensors").stat().st_size < 100_000


def test_damaged_caches_are_rebuilt(tmp_path):
    save_parsed(tmp_path / "a.safetensors", small())
    good = (tmp_path / "a.safetensors").read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        place = int(torch.randint(len(good), (1,), generator=generator))
        bad = bytearray(good)
        bad[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        (tmp_path / "b.safetensors").write_bytes(bytes(bad))
        try:
            again = read_parsed(tmp_path / "b.safetensors")
        except InputError:
            continue
        # A flip inside a feature cannot be seen; indices are always checked.
        assert again.graphs.batch(torch.arange(len(again.graphs))).num_graphs == len(again.graphs)
    for cut in (0, 1, 7, 8, 100, len(good) - 1):
        (tmp_path / "b.safetensors").write_bytes(good[:cut])
        with pytest.raises(InputError, match="not a cached data set"):
            read_parsed(tmp_path / "b.safetensors")


def test_two_threads_build_once():
    built = []

    def build():
        built.append(1)
        return small()

    threads = [threading.Thread(target=cached, args=("twice", "key", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_an_unusable_cache_folder_costs_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "file/cache"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            parsed = cached("name", "key", small)
            assert len(parsed.graphs) == 5
    ours = [str(warning.message) for warning in seen if "GRAPHKIT_CACHE" in str(warning.message)]
    assert len(ours) == 1


def test_offline_forbids_and_no_checksum_means_no_download(monkeypatch):
    card = data.card("ogbg-molpcba")
    with pytest.raises(DatasetNotFoundError, match="no address with a checksum"):
        fetch(card)
    download = {"url": "https://invalid.invalid/a.zip", "sha256": "0" * 64, "size_bytes": 1}
    card = card.model_validate({**card.model_dump(), "download": download})
    monkeypatch.setenv("GRAPHKIT_OFFLINE", "1")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    with pytest.raises(DatasetNotFoundError, match="GRAPHKIT_OFFLINE forbids"):
        fetch(card)


def test_cards_take_https_only():
    card = data.card("demo")
    download = {"url": "http://example.org/a.zip", "sha256": "0" * 64, "size_bytes": 1}
    with pytest.raises(ValueError, match="url"):
        card.model_validate({**card.model_dump(), "download": download})


def test_nothing_unpickles_but_the_planetoid_reader():
    from pathlib import Path

    import graphkit.data

    # torch.load appears once more, with weights_only=True.
    allowed = {"restricted_pickle.py": ("pickle",), "tensor_files.py": ("torch.load(",)}
    banned = (
        "import pickle\n",
        "pickle.",
        "torch.load(",
        "joblib",
        "allow_pickle=True",
        "yaml.load(",
        "eval(",
        "exec(",
        "input(",
    )
    for path in Path(graphkit.data.__file__).parent.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
            found = [
                word
                for word in banned
                if word in line.replace(".eval(", "").replace("pickle._", "")
            ]
            excused = allowed.get(path.name, ())
            left = [
                word for word in found if not any(part in word or word in part for part in excused)
            ]
            assert not left, f"{path.name}:{number}: {line.strip()}"
    source = (Path(graphkit.data.__file__).parent / "tensor_files.py").read_text()
    assert source.count("torch.load(") == 1
    assert "weights_only=True" in source
