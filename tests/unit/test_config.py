"""Configuration: what is read, in which order, and what each mistake is told."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from uffdtrackd.errors import ConfigError
from uffdtrackd.service import config
from uffdtrackd.service.settings import Config, sections, settings


class Tree:
    """A main file and three folders of drop-ins, as on a machine."""

    def __init__(self, root: Path) -> None:
        self.main = root / "etc/uffdtrackd.toml"
        self.folders = tuple(root / top / "uffdtrackd.toml.d" for top in ("usr", "run", "etc"))
        for folder in self.folders:
            folder.mkdir(parents=True)

    def drop(self, top: int, name: str, text: str) -> Path:
        path = self.folders[top] / name
        path.write_text(text)
        return path

    def load(self, **more: object) -> config.Loaded:
        arguments = {"default": self.main, "folders": self.folders, "environment": {}} | more
        return config.load(**arguments)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def refused(tree: Tree, text: str) -> str:
    tree.main.write_text(text)
    with pytest.raises(ConfigError) as caught:
        tree.load()
    assert caught.value.exit_code == 78
    assert str(tree.main) in caught.value.message
    return caught.value.message


def test_nothing_there_means_the_defaults(tree: Tree) -> None:
    loaded = tree.load()
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == {one.name for one in settings()}


def test_a_value_and_its_origin(tree: Tree) -> None:
    tree.main.write_text('log_level = "debug"\n[limits]\nframe_bytes = "2M"\nsessions = 7\n')
    loaded = tree.load()
    assert loaded.config.log_level == "debug"
    assert (loaded.config.limits.frame_bytes, loaded.config.limits.sessions) == (2 << 20, 7)
    assert loaded.origins["limits.sessions"] == str(tree.main)
    assert loaded.origins["limits.fds"] == "default"


def test_drop_ins_go_by_name_whatever_their_folder(tree: Tree) -> None:
    tree.main.write_text("watch.queue = 2\n[limits]\nsessions = 2\nfds = 2\n")
    tree.drop(0, "50-b.toml", "[limits]\nsessions = 50\n")
    first = tree.drop(2, "10-a.toml", "[limits]\nsessions = 10\nfds = 10\n")
    loaded = tree.load()
    assert loaded.config.watch.queue == 2
    assert (loaded.config.limits.sessions, loaded.config.limits.fds) == (50, 10)
    assert loaded.origins["limits.fds"] == str(first)


def test_etc_hides_run_hides_usr(tree: Tree) -> None:
    for top in range(3):
        tree.drop(top, "10-a.toml", f"watch.queue = {top + 1}\n")
    tree.drop(1, "20-b.toml", "[limits]\nfds = 1\n")
    tree.drop(0, "20-b.toml", "[limits]\nfds = 9\nsessions = 9\n")
    loaded = tree.load()
    assert loaded.config.watch.queue == 3
    assert (loaded.config.limits.fds, loaded.config.limits.sessions) == (1, 256)


def test_a_link_to_dev_null_masks(tree: Tree) -> None:
    tree.drop(0, "10-a.toml", "watch.queue = 9\n")
    (tree.folders[2] / "10-a.toml").symlink_to("/dev/null")
    assert tree.load().config == Config()


def test_other_names_are_not_read(tree: Tree) -> None:
    tree.drop(2, "10-a.toml.bak", "nonsense\n")
    assert tree.load().config == Config()


def test_a_named_file_is_read_alone(tree: Tree, tmp_path: Path) -> None:
    tree.main.write_text("watch.queue = 9\n")
    tree.drop(2, "10-a.toml", "watch.queue = 8\n")
    named = tmp_path / "named.toml"
    with pytest.raises(ConfigError, match=r"named\.toml: No such file"):
        tree.load(main=named)
    named.write_text("[freeze]\nlease = 3\n")
    loaded = tree.load(main=named)
    assert (loaded.config.watch.queue, loaded.config.freeze.lease) == (16, 3.0)
    assert isinstance(loaded.config.freeze.lease, float)


def test_the_command_line_comes_last_and_is_checked(tree: Tree) -> None:
    tree.main.write_text('socket = "/a"\n')
    loaded = tree.load(overrides={"socket": "/b"})
    assert loaded.config.socket == "/b"
    assert loaded.origins["socket"] == "command line"
    with pytest.raises(ConfigError, match="command line: socket: must be an absolute path"):
        tree.load(overrides={"socket": "b"})


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({"UFFDTRACKD_LOG_LEVEL": "debug", "SYSTEMD_LOG_LEVEL": "error"}, "debug"),
        ({"SYSTEMD_LOG_LEVEL": "err"}, "error"),
        ({"SYSTEMD_LOG_LEVEL": "emerg"}, "warning"),
        ({"UFFDTRACKD_LOG_LEVEL": ""}, "warning"),
    ],
)
def test_the_environment_says_the_level(
    tree: Tree, environment: dict[str, str], level: str
) -> None:
    tree.main.write_text('log_level = "warning"\n')
    assert tree.load(environment=environment).config.log_level == level


def test_a_wrong_level_of_ours_is_an_error(tree: Tree) -> None:
    with pytest.raises(ConfigError, match=r"\$UFFDTRACKD_LOG_LEVEL: log_level"):
        tree.load(environment={"UFFDTRACKD_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sokcet = '/a'", "sokcet: no such setting"),
        ("[limits]\nsessionz = 1", "limits.sessionz: no such setting"),
        ("[limit]\nsessions = 1", "limit: no such setting"),
        ("limits = 3", "limits: must be a section"),
        ("[limits.sessions]\nx = 1", "limits.sessions: must be a whole number"),
        ("socket = 'a'", "socket: must be an absolute path"),
        ('socket = "/a\\u0000b"', "socket: must be an absolute path"),
        ("socket = 3", "socket: must be an absolute path"),
        ("log_level = 'loud'", "log_level: must be one of error, warning"),
        ("log_level = 3", "log_level: must be one of"),
        ("watch.queue = 0", "watch.queue: must be from 1 to 4096"),
        ("watch.queue = true", "watch.queue: must be a whole number"),
        ("watch.queue = 2.0", "watch.queue: must be a whole number"),
        ("watch.queue = '4'", "watch.queue: must be a whole number"),
        ("[limits]\nframe_bytes = '1X'", "limits.frame_bytes: must be a number of bytes"),
        ("[limits]\nframe_bytes = 'M'", "limits.frame_bytes: must be a number of bytes"),
        ("[limits]\nframe_bytes = '16MM'", "limits.frame_bytes: must be a number of bytes"),
        ("[limits]\nframe_bytes = '99999T'", "limits.frame_bytes: must be from"),
        ("[freeze]\nlease = nan", "freeze.lease: must be a number of seconds"),
        ("[freeze]\nlease = '10s'", "freeze.lease: must be a number of seconds"),
        ("[freeze]\nlease = 1e9", "freeze.lease: must be from 0.01 to 3600"),
        ("[log]\nenabled = 1", "log.enabled: must be true or false"),
        ("[metrics]\naddress = '0.0.0.0'", "metrics.address: must be one of 127.0.0.1, ::1"),
        ("[metrics]\nport = 65536", "metrics.port: must be from 0 to 65535"),
        (
            "[freeze]\nlease = 20\nlease_max = 10",
            "freeze.lease is 20.0, more than freeze.lease_max",
        ),
        ("watch.queue =", "Invalid value"),
        ("log_level = 'info'\nlog_level = 'debug'", "Cannot overwrite"),
        ("x = " + "[" * 5000, "Recursion|recursion|nested"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tree: Tree, text: str, words: str) -> None:
    message = refused(tree, text)
    assert any(word in message for word in words.split("|")), message
    assert "\n" not in message


def test_a_limit_pulls_down_the_defaults_below_it(tree: Tree) -> None:
    tree.main.write_text("[freeze]\nlease_max = 2\n[limits]\nsessions_total = 3\n")
    loaded = tree.load().config
    assert (loaded.freeze.lease, loaded.limits.sessions) == (2.0, 3)


def test_what_is_no_text_file(tree: Tree) -> None:
    tree.main.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=str(tree.main)):
        tree.load()
    tree.main.unlink()
    tree.main.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="longer than"):
        tree.load()
    tree.main.unlink()
    tree.main.mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        tree.load()


def test_a_broken_drop_in_spoils_the_whole(tree: Tree) -> None:
    tree.main.write_text("watch.queue = 2\n")
    broken = tree.drop(2, "10-a.toml", "[limits]\nfds = -1\n")
    with pytest.raises(ConfigError, match=f"{broken}: limits.fds: must be from 0 to 253"):
        tree.load()


def test_what_is_shown_is_a_configuration_that_says_the_same(tree: Tree, tmp_path: Path) -> None:
    tree.main.write_text('socket = "/a \\" \\\\ b"\n[log]\nenabled = false\nage_max = 90\n')
    loaded = tree.load()
    text = config.render(loaded)
    assert f"enabled = false  # {tree.main}" in text.splitlines()
    again = tmp_path / "again.toml"
    again.write_text(text)
    assert config.load(again, environment={}).config == loaded.config
    assert tomllib.loads(text)["limits"]["fds"] == 16


def test_what_a_reload_cannot_change(tree: Tree) -> None:
    before = tree.load().config
    assert config.need_restart(before, before) == []
    tree.main.write_text('socket = "/x"\nlog_level = "debug"\n[metrics]\nport = 1\n')
    assert config.need_restart(before, tree.load().config) == ["socket", "metrics.port"]


def test_every_setting_is_complete() -> None:
    names = [one.name for one in settings()]
    fields = sum(len(dataclasses.fields(kind)) for kind in sections().values())
    # Each section is itself a field of Config.
    assert len(names) == len(set(names)) == fields - (len(sections()) - 1)
    for one in settings():
        assert one.help and not one.help.endswith("."), one.name
        number = one.kind in ("count", "bytes", "seconds")
        assert number == (one.low is not None and one.high is not None), one.name
        assert (one.kind == "word") == bool(one.choices), one.name


def test_every_default_passes_its_own_check(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(config.render(config.load(environment={}, default=tmp_path / "no", folders=())))
    assert config.load(file, environment={}).config == Config()
