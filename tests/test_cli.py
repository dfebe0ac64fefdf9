"""The frame of the command line: exit codes, streams that fail, terminals, completion, places and helpers."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import pystream
from commands import ENVIRONMENT, WAIT_S, Terminal, altered, finished, in_shell, in_terminal, pystream_
from pystream.cli import COMMANDS, EXIT_CODES, cli, common
from pystream.cli.common import PLACE, bytes_text, error_text, parse_dtype_text, time_text

# ---- the commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    command = cli.get_command(click.Context(cli), name)
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    for each in commands:
        result = CliRunner().invoke(each, ["--help"])
        assert result.exit_code == 0
        assert isinstance(each, click.Group) or re.search(r"Examples?:\n.*pystream", result.output)
        assert max(map(len, result.output.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_imported_without_what_only_its_work_needs(name):
    module = COMMANDS[name][0].partition(":")[0]
    code = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"rich", "pyarrow", "pandas", "matplotlib", "orjson", "msgpack", "duckdb"}
    assert slow & set(loaded.stdout.split()) == set()


@pytest.mark.parametrize("arguments", [["version", "--json"], ["topics", "list"], ["--version"], ["--help"]])
def test_what_prints_lines_does_not_wait_for_rich(events, arguments):
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    if arguments[-1] == "list":
        arguments = [*arguments, events]
    result = altered(code, *arguments)
    assert result.returncode == 0
    assert {"rich", "pyarrow", "matplotlib"} & set(result.stderr.split()) == set()


def test_help_lists_the_commands_and_the_exit_codes():
    result = pystream_("--help")
    assert result.returncode == 0 and result.stderr == ""
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", result.stdout, re.MULTILINE)
    codes = {int(code) for code in re.findall(r"^  (\d+) ", result.stdout, re.MULTILINE)}
    assert codes == {code for code, _ in EXIT_CODES} == {0, 1, 2, 3, 70, 130}
    assert pystream_("-h").stdout == result.stdout


def test_the_program_is_called_pystream_however_it_is_run():
    assert pystream_("topics", "--help").stdout.startswith("Usage: pystream topics")
    assert pystream_("--version").stdout == f"pystream, version {pystream.__version__}\n"


# ---- wrong usage: 2 -----------------------------------------------------------------------------------

USAGE = {
    "mistyped command": (["topcis"], "no such command 'topcis'; did you mean 'topics'?"),
    "mistyped command of a group": (["topics", "creat"], "no such command 'creat'; did you mean 'create'?"),
    "command of a group by itself": (["list"], "no such command 'list'; did you mean 'topics list'?"),
    "unknown command": (["zzz"], "no such command 'zzz'; there are backup, bench, completion, consume, "),
    "unknown option": (["describe", "--jsno", "s"], "No such option"),
    "missing argument": (["describe"], "Missing argument 'STORE'"),
    "too many arguments": (["topics", "list", "s", "t"], "unexpected extra argument (t)"),
    "no number": (["describe", "s", "t", "first"], "'first' is not a valid integer"),
    "no command of a group": (["topics"], "Commands:"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage(case):
    arguments, said = USAGE[case]
    result = pystream_(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: pystream")
    assert said in result.stderr
    assert result.stdout == ""


def test_a_store_in_the_place_of_the_command(events):
    result = pystream_(events)
    assert result.returncode == 2
    assert f"the command comes before the store: pystream describe {events}" in result.stderr


def test_an_option_the_library_refuses_is_wrong_usage(events):
    result = pystream_("describe", events, "clicks", 2)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "pystream: partition=2: topic 'clicks' has partitions 0 to 1\n"


@pytest.mark.parametrize("missing", [["click"], ["rich"], ["click", "rich"]])
def test_without_the_extra_it_says_what_to_install(missing):
    hide = (
        "import importlib.util as u; real = u.find_spec\n"
        f"u.find_spec = lambda n, *a: None if n in {missing} else real(n, *a)"
    )
    result = altered(hide, "version")
    assert result.returncode == 2
    assert result.stderr == (
        f"pystream: the command line needs {' and '.join(missing)}. Install the extra: "
        "pip install 'pystream-log[cli]'\n"
    )


def test_what_else_is_missing_is_said_with_its_extra(capsys):
    common.need("arrow", "json", "os")
    with pytest.raises(SystemExit) as ended:
        common.need("arrow", "json", "no_such_module", "nor_this")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "pystream: this needs no_such_module and nor_this. Install the extra: "
        "pip install 'pystream-log[arrow]'\n"
    )


# ---- failures: 3, 70 ----------------------------------------------------------------------------------


def test_failures_of_the_store(tmp_path, events):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, said in {
        "none": "does not exist; `pystream topics create` makes a store",
        "home": "is not a pystream store",
        "file": "not a directory; a store is a directory",
    }.items():
        for command in (["describe"], ["topics", "list"], ["topics", "list", "--long"]):
            result = pystream_(*command, tmp_path / name)
            assert (result.returncode, result.stdout) == (3, "")
            assert result.stderr == f"pystream: {tmp_path / name}: {said}\n"
    result = pystream_("describe", events, "click")
    assert result.returncode == 3
    assert result.stderr == f"pystream: no topic 'click' in {events}; did you mean 'clicks'?\n"
    result = pystream_("describe", events, "zzz")
    assert result.stderr == f"pystream: no topic 'zzz' in {events}; `pystream topics create` makes it\n"


def test_damage_is_said_where_it_is(events):
    with open(events / "store.json", "r+b") as file:
        file.write(b"[")
    result = pystream_("describe", events)
    assert result.returncode == 3
    assert result.stderr == (
        f"pystream: {events}/store.json: damaged: not what was written there (checksum differs)\n"
    )


def raising(expression: str) -> str:
    """Code after which `pystream version` raises."""
    return (
        "import pystream.versions as v\n"
        "def collect():\n"
        f"    raise {expression}\n"
        "v.collect = collect\n"
        "import pystream, signal, errno, os"
    )


RAISED = {
    "OSError(errno.EIO, os.strerror(errno.EIO), '/a/file')": (3, "pystream: /a/file: Input/output error\n"),
    "OSError(errno.EIO, os.strerror(errno.EIO))": (3, "pystream: Input/output error\n"),
    "OSError('of no number')": (3, "pystream: of no number\n"),
    "pystream.StorageError(16, 'in use', '/s', path='/s')": (3, "pystream: /s: in use\n"),
    "pystream.StorageError(28, 'No space left', '/s', path='/s')": (
        3,
        "pystream: /s: No space left; free some space and try again: "
        "nothing needs to be closed or reopened\n",
    ),
    "OSError(errno.ENOSPC, os.strerror(28))": (3, "pystream: standard output: No space left on device\n"),
    "pystream.UnsafeFileSystemError('/s: on nfs')": (3, "pystream: /s: on nfs\n"),
    "pystream.LockTimeoutError('held')": (3, "pystream: held\n"),
    "pystream.DeliveryError('5 records')": (3, "pystream: 5 records\n"),
    "pystream.CorruptLogError('damaged')": (3, "pystream: damaged\n"),
    "pystream.OptionError('x=1: no')": (2, "pystream: x=1: no\n"),
    "pystream.UnsupportedError('x=: not yet')": (2, "pystream: x=: not yet\n"),
    "BrokenPipeError(errno.EPIPE, 'Broken pipe')": (0, ""),
    "KeyboardInterrupt": (130, ""),
    "SystemExit(1)": (1, ""),
    "click.exceptions.Exit(5)": (5, ""),
    "click.Abort": (130, ""),
}


@pytest.mark.parametrize("raised", RAISED)
def test_exit_code_and_message_of_what_a_command_raises(raised):
    code, said = RAISED[raised]
    result = altered(raising(raised) + ", click", "version")
    assert (result.returncode, result.stderr, result.stdout) == (code, said, "")


def test_a_fault_of_ours_shows_where_and_is_no_answer():
    result = altered(raising("RuntimeError('of ours')"), "version")
    assert result.returncode == 70
    assert "Traceback" in result.stderr and "RuntimeError: of ours" in result.stderr
    assert result.stderr.endswith("please report it with the lines above and `pystream version`\n")


# ---- standard streams that end, fail or are not there -------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["describe", "topics list", "topics list --long", "groups list", "describe --json", "consume {} clicks"],
)
def test_a_full_disk_under_the_output(events, command):
    command = command if "{}" in command else command + " {}"
    result = in_shell('"$@" > /dev/full', *command.format(events).split())
    assert result.returncode == 3
    assert result.stderr == "pystream: standard output: No space left on device\n"


@pytest.mark.parametrize("command", ["describe", "topics list", "topics list --long"])
def test_no_output_at_all(events, command):
    """Bytes that cannot go out are a failure; and they do not go into a file of the store instead."""
    before = {path: path.read_bytes() for path in events.rglob("*.log")}
    result = in_shell('"$@" >&-', *command.split(), events)
    assert result.returncode == 3
    assert result.stderr == "pystream: standard output: Bad file descriptor\n"
    assert {path: path.read_bytes() for path in events.rglob("*.log")} == before


def test_closed_streams_that_nobody_needs(events):
    for closing in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        result = in_shell(f'"$@" {closing}', "topics", "create", events, "new", "--if-not-exists")
        assert result.returncode == 0, result.stderr
    assert in_shell('"$@" 2>&-', "nonsense").returncode == 2
    assert in_shell('"$@" 2>/dev/full', "nonsense").returncode == 2
    assert in_shell('"$@" 2>/dev/full', "describe", events, "none").returncode == 3


def test_what_stands_in_for_closed_streams_keeps_their_numbers(tmp_path):
    code = (
        "import os, sys; from pystream.__main__ import _fill_standard_streams; _fill_standard_streams()\n"
        f"said = open({str(tmp_path / 'said')!r}, 'w'); print(said.fileno(), file=said)\n"
        "for ask in (lambda: sys.stdin.read(), lambda: print('lost', flush=True)):\n"
        "    try: ask()\n"
        "    except OSError as error: print(error.errno, file=said)\n"
        "said.flush(); print('unheard', file=sys.stderr, flush=True); os._exit(0)"
    )
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code]
    subprocess.run(command, check=True, timeout=WAIT_S)
    number, of_input, of_output = map(int, (tmp_path / "said").read_text().split())
    assert number > 2
    assert of_input == of_output == errno.EBADF


@pytest.mark.parametrize(
    "command", ["describe", "topics list", "groups list", "version", "--help", "describe --json"]
)
def test_a_reader_that_goes_away(events, command):
    arguments = command.split() + ([events] if "version" not in command and command != "--help" else [])
    result = in_shell('"$@" | true; echo ${PIPESTATUS[0]}', *arguments)
    assert result.stdout == "0\n"
    assert result.stderr == ""


def test_interrupted_while_working():
    blocking = (
        "import pystream.versions as v, time\n"
        "def collect():\n"
        "    print('started', flush=True); time.sleep(60)\n"
        "v.collect = collect\n"
        "from pystream.__main__ import main\nmain()"
    )
    command = [sys.executable, "-c", blocking, "version"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, said) == (130, "", "")


# ---- terminals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_are_as_wide_as_the_terminal_and_say_what_they_leave_out(events, columns):
    code, lines = in_terminal("topics", "list", "--long", events, columns=columns, NO_COLOR="1")
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]
    assert max(map(len, lines)) <= columns
    header = lines[0].split("  ")
    assert header[0] == "Topic" and lines[1].startswith("clicks") and lines[2].startswith("ticks")
    if columns >= 80:
        assert {"Records", "Stored", "Codec", "Newest (UTC)"} <= {title.strip() for title in header}
        assert "2023-11-14 22:13" in lines[1]
    else:
        assert " ".join(lines[3:]).strip() == "(no room for codec, oldest (UTC), newest (UTC))"


def test_no_table_is_cut_where_there_is_no_terminal(tmp_path):
    with pystream.open(tmp_path / "s") as store:
        store.topic("n" * 240, create=True)
    result = pystream_("topics", "list", "--long", tmp_path / "s")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["Topic", "n" * 240]
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())
    narrow = pystream_("topics", "list", "--long", tmp_path / "s", env=ENVIRONMENT | {"COLUMNS": "60"})
    assert max(map(len, narrow.stdout.splitlines())) <= 60
    assert narrow.stdout.count("n") >= 240


def test_a_dumb_terminal_gets_plain_text(events):
    code, lines = in_terminal("describe", events, TERM="dumb")
    assert code == 0
    assert "\x1b" not in "".join(lines)
    coloured = "".join(in_terminal("describe", events)[1])
    assert "\x1b[1m" in coloured


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_names_that_no_terminal_can_show(tmp_path, environment):
    """Directories named in UTF-8, and in bytes that are no text, under an encoding that has neither."""
    for name in ("\u00fcber", os.fsdecode(b"\xff")):
        path = tmp_path / name
        pystream.open(path).close()
        settings = ENVIRONMENT | environment
        command = [sys.executable, "-m", "pystream", "describe", os.fsencode(path)]
        for more in ([], ["--json"], ["no-topic"]):
            result = subprocess.run([*command, *more], capture_output=True, env=settings, timeout=WAIT_S)
            assert b"Traceback" not in result.stderr
            assert result.returncode == (3 if more == ["no-topic"] else 0), result.stderr
            assert b"store" in result.stdout or b"no topic" in result.stderr


def test_json_is_all_there_is_on_stdout(events):
    for arguments in (
        ["describe", events],
        ["describe", events, "clicks"],
        ["describe", events, "clicks", 1],
        ["topics", "list", events],
        ["topics", "list", "--long", events],
        ["topics", "describe", events, "ticks"],
        ["version"],
    ):
        result = pystream_(*arguments, "--json")
        assert result.returncode == 0 and result.stderr == ""
        json.loads(result.stdout)
        code, lines = in_terminal(*arguments, "--json", columns=40)
        assert code == 0
        assert json.loads("".join(lines)) == json.loads(result.stdout)


# ---- completion ---------------------------------------------------------------------------------------


def test_the_scripts_speak_the_language_of_their_shells():
    for shell, mark in {"bash": "complete -o nosort", "zsh": "#compdef pystream", "fish": "complete"}.items():
        result = pystream_("completion", shell)
        assert result.returncode == 0
        assert mark in result.stdout and "_PYSTREAM_COMPLETE" in result.stdout
    result = pystream_("completion", "tcsh")
    assert result.returncode == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr
    assert pystream_("completion").returncode == 2


@contextmanager
def bin_with_pystream(tmp_path: Path) -> Iterator[str]:
    """A PATH that begins with a directory in which `pystream` is this one."""
    program = tmp_path / "bin" / "pystream"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pystream "$@"\n')
    program.chmod(0o755)
    yield f"{program.parent}:{os.environ['PATH']}"


def test_bash_asks_and_is_answered(tmp_path, events):
    cases = {
        "pystream desc": ["describe"],
        "pystream topics ": [
            "add-partitions",
            "alter",
            "copy",
            "create",
            "delete",
            "delete-records",
            "describe",
            "list",
            "rename",
            "truncate-before",
        ],
        "pystream groups ": ["delete", "describe", "list", "reset"],
        f"pystream topics delete {events} ": ["clicks", "ticks"],
        f"pystream topics delete {events} clicks ti": ["ticks"],
        f"pystream describe {events} c": ["clicks"],
        f"pystream describe {events}/no/store c": [],
        f"pystream topics create {events} ": [],
        f"pystream topics create {events} x --compression ": ["lz4", "none"],
        "pystream describe --js": ["--json"],
        "pystream completion z": ["zsh"],
    }
    lines = ['eval "$(pystream completion bash)"']
    for words in cases:
        *before, last = words.split(" ")
        lines += [
            f"COMP_WORDS=({' '.join(before)} '{last}'); COMP_CWORD={len(before)}; COMPREPLY=()",
            '_pystream_completion pystream; echo "${COMPREPLY[*]}"',
        ]
    before_asking = {path: path.stat().st_mtime_ns for path in events.rglob("*")}
    with bin_with_pystream(tmp_path) as path:
        result = finished(["bash", "--norc", "-c", "\n".join(lines)], env=ENVIRONMENT | {"PATH": path})
    assert result.stderr == ""
    assert [line.split() for line in result.stdout.splitlines()] == list(cases.values())
    assert {path: path.stat().st_mtime_ns for path in events.rglob("*")} == before_asking


def test_the_tab_key_in_bash(tmp_path, events):
    with bin_with_pystream(tmp_path) as path:
        settings = {"PATH": path, "PS1": "$ ", "TERM": "dumb"}
        terminal = Terminal(["bash", "--norc", "--noprofile", "-i"], 200, **settings)
        terminal.type(f'cd {events.parent}; eval "$(pystream completion bash)"; echo re""ady\n')
        terminal.until("ready\r\n")
        terminal.type("pystream describe eve\t")
        terminal.until("events.ps/")
        terminal.type(" cli\t")
        terminal.until("clicks ")
        terminal.type("1 --json\n")
        terminal.until('"records": 30')
        terminal.type("exit\n")
        assert terminal.end() == 0


def test_topics_are_completed_without_asking_anybody(events, tmp_path):
    def complete(store: object, incomplete: str) -> list[str]:
        command = cli.get_command(click.Context(cli), "describe")
        context = click.Context(command, resilient_parsing=True)
        context.params["store"] = store
        (topic,) = (param for param in command.params if param.name == "topic")
        return [item.value for item in topic.type.shell_complete(context, topic, incomplete)]

    assert complete(events, "") == ["clicks", "ticks"]
    assert complete(events, "t") == ["ticks"]
    assert complete(None, "") == complete(tmp_path / "none", "") == complete(Path("/etc"), "") == []
    (events / "topics").chmod(0)
    try:
        assert complete(events, "c") == ([] if os.geteuid() else ["clicks"])
    finally:
        (events / "topics").chmod(0o755)
    assert [item.value for item in PLACE.shell_complete(None, None, "l")] == ["latest"]


# ---- what the commands share --------------------------------------------------------------------------


def test_places():
    def place(text: str) -> object:
        return PLACE.convert(text, None, None)

    assert (place("earliest"), place("latest"), place(" 17 "), place("0")) == ("earliest", "latest", 17, 0)
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert place("2026-01-31T12:00:00Z") == place("2026-01-31T12:00") == noon
    assert place("2026-01-31 13:00+01:00") == noon
    assert place("2026-01-31") == noon - timedelta(hours=12)
    for text, ago in {"15m": 900, "2h": 7200, "7d": 7 * 86400, "-30s": 30}.items():
        moment = place(text)
        assert isinstance(moment, datetime)
        assert abs((datetime.now(UTC) - moment).total_seconds() - ago) < 5
    assert (PLACE.convert(5, None, None), PLACE.convert(noon, None, None)) == (5, noon)
    for text in ("", "newest", "-5", "2026-13-01", "1.5", "5 parsecs"):
        with pytest.raises(click.BadParameter, match="give earliest, latest, an offset, a moment"):
            place(text)


def test_dtypes_as_text():
    assert parse_dtype_text("f8") == "f8"
    assert parse_dtype_text("ts:i8, px:f8,tag:S4,at:M8[ns]") == [
        ("ts", "i8"),
        ("px", "f8"),
        ("tag", "S4"),
        ("at", "M8[ns]"),
    ]
    for text, said in {
        "ts:i8,px": "field 'px' is not NAME:TYPE",
        "ts:,px:f8": "field 'ts:' is not NAME:TYPE",
        "ts:i8,": "field '' is not NAME:TYPE",
        "ts:i8,px:real": "field 'px': 'real' is no NumPy type",
        "ts:O": "field 'ts': 'O' is no NumPy type",
        "ts:i8,ts:f8": "occurs more than once",
        "O": "holds Python objects",
        "nothing": "not a NumPy dtype",
    }.items():
        with pytest.raises(pystream.OptionError, match=re.escape(said)):
            parse_dtype_text(text)


def test_sizes_and_times_for_people():
    sizes = {0: "0 B", 1023: "1,023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB"}
    sizes |= {(1 << 20) - 1: "1.0 MiB", 1 << 30: "1.0 GiB", 5 << 50: "5,120.0 TiB"}
    assert {size: bytes_text(size) for size in sizes} == sizes
    second = 1_700_000_000_000_000_000
    assert time_text(None) == ""
    assert time_text(second) == "2023-11-14T22:13:20Z"
    assert time_text(second + 1) == "2023-11-14T22:13:20.000000001Z"
    assert time_text(second + 1000) == "2023-11-14T22:13:20.000001Z"
    assert time_text(second + 10**6) == "2023-11-14T22:13:20.001Z"
    assert time_text(-1) == "1969-12-31T23:59:59.999999999Z"
    assert time_text(-(2**63) + 1) == "1677-09-21T00:12:43.145224193Z"


def test_errors_in_the_words_of_the_command_line():
    assert (
        error_text(FileNotFoundError(2, "No such file or directory", "x")) == "x: No such file or directory"
    )
    assert error_text(OSError(5, "Input/output error", b"x\xff")) == "x\udcff: Input/output error"
    assert error_text(ValueError("as it is")) == "as it is"
    said = "/s: on nfs; use a local file system, or force=True to do without the guarantees"
    assert error_text(pystream.UnsafeFileSystemError(said)) == "/s: on nfs; use a local file system"


def test_the_words_of_the_library_that_are_said_otherwise_are_its_words(tmp_path):
    """The replacements would do nothing, unseen, if the library changed its messages."""
    (tmp_path / "other").mkdir()
    said = []
    pystream.open(tmp_path / "s").close()
    for mode in ("rw", "r"):
        with pystream.open(tmp_path / "s", mode) as store:
            with pytest.raises(pystream.TopicNotFoundError) as no_topic:
                store.topic("t")
            said.append(str(no_topic.value))
    for name in ("none", "other"):
        with pytest.raises(pystream.StoreNotFoundError) as no_store:
            pystream.open(tmp_path / name, create=False)
        said.append(str(no_store.value))
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("keyed", create=True, cleanup="compact")
        with pytest.raises(pystream.KeyRequiredError) as no_key:
            topic.append([b"x"])
        said.append(str(no_key.value))
    said.append(pystream.StorageError(errno.EROFS, "").advice or "")
    for path in Path(pystream.__file__).parent.glob("*.py"):  # for what cannot be provoked here
        source = re.sub(r'"\s*f?"', "", path.read_text(encoding="utf-8"))
        said.append(source.replace("{{", "{").replace("}}", "}"))
    for words, _ in common._IN_OTHER_WORDS:
        assert any(words in text for text in said), words
