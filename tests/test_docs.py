"""The documents name only files and folders that exist."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mirepoix.workflows.cluster.doctor import TEST_PROGRAMS

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/RESULTS.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
HOMES = ("models", "serving", "components", "workflows", "tests", "bench", "docs", "locks", ".ci")
PATH = re.compile(r"(?<![\w/.{*<-])((?:" + "|".join(map(re.escape, HOMES)) + r")/[\w./-]*\w(?:/(?![\w*<{]))?)(?![\w*<{])")
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
NAME = re.compile(r"[\w.-]+\.(?:py|md|yaml|lock)|[\w-]+/")
PLACEHOLDER = re.compile(r"(?:^|[/_])(?!README|RESULTS)[A-Z]{3,}(?:[._/]|$)")


def named_paths(text: str) -> set[str]:
    """Paths below the folders of the project; those with a placeholder, as NAME, are left out."""
    return {path for path in PATH.findall(text) if not PLACEHOLDER.search(path)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_and_link_of_a_document_exists(document):
    text = (ROOT / document).read_text()
    missing = {path for path in named_paths(text) if not (ROOT / path).exists()}
    missing |= {link for link in LINK.findall(text) if not (ROOT / document).parent.joinpath(link).exists()}
    assert not missing


def tree(text: str) -> dict[str, set[str]]:
    """The folders of the tree under "The files", each with the files and folders that are named in it."""
    block = text.partition("## The files")[2].split("```")[1]
    found: dict[str, set[str]] = {"": set()}
    top = package = inner = ""
    for line in block.strip("\n").splitlines():
        indent = len(line) - len(line.lstrip())
        words = NAME.findall(line)
        if indent == 0:
            top = inner = words[0] if words[0].endswith("/") else ""
            found[""].add(words.pop(0))
        elif indent == 2:
            inner = f"{top}{words[0]}" if words[0].endswith("/") else top
            if words[0].endswith("/"):
                found[top].add(words.pop(0))
                package = inner
        elif indent == 4:
            inner = f"{package}{words[0]}"
            found[package].add(words.pop(0))
        found.setdefault(inner, set()).update(words)
    return found


def test_every_file_of_the_tree_exists():
    missing = [
        f"{folder}{name}"
        for folder, names in tree((ROOT / "docs/files.md").read_text()).items()
        for name in names
        if not (ROOT / folder / name).exists() and not list((ROOT / folder).glob(f"*/{name}")) and not (ROOT / name).exists()
    ]
    assert not missing


def test_the_tree_names_every_package_and_every_module():
    """But for config modules, which are beside the work, and formats."""
    found = tree((ROOT / "docs/files.md").read_text())
    sources = [path for home in HOMES[:4] for path in (ROOT / home).rglob("*.py")]
    missing = []
    for path in sources:
        folder, name = path.parent.relative_to(ROOT), path.name
        if folder.name == "formats":
            continue
        if name == "__init__.py":
            parent = "" if folder.parent == Path() else f"{folder.parent}/"
            missing += [f"{folder}/"] * (f"{folder.name}/" not in found[parent])
        elif not name.endswith(("_config.py", "_settings.py")):
            missing += [str(path.relative_to(ROOT))] * (name not in found.get(f"{folder}/", ()))
    assert not missing


def table_of_checks(section: str) -> list[list[str]]:
    """The lines of the table below a heading of docs/checks.md, by their cells."""
    text = (ROOT / "docs/checks.md").read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("| what is wrong")
    ]


VARYING = re.compile(r"\d[\d.,:]*|\.\.\.|'[^']*'")
"""The parts of what a check says that differ from case to case: numbers, names between quotes, and what is left out."""


def strings_of(test: ast.AST) -> str:
    """The strings in the code of a test, those with fields in them with a space for each."""
    found = []
    for node in ast.walk(test):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else " " for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


def test_every_check_that_is_documented_has_a_test_that_expects_its_words_and_a_cure():
    homes = ("tests/workflows/checks", "tests/workflows/cluster", "tests/workflows/corpora", "tests/components/pairs", "tests/workflows")
    homes += ("tests/workflows/dag", "tests/components/ingestion")
    defined = {
        test.name: test
        for home in homes
        for path in (ROOT / home).glob("test_*.py")
        for test in ast.parse(path.read_text()).body
        if isinstance(test, ast.FunctionDef)
    }
    for section, least in (("From config and machine", 14), ("From the corpus", 13)):
        lines = table_of_checks(section)
        assert len(lines) >= least
        for line in lines:
            what, said, cure, test = line
            assert what and said and cure, line
            names = re.findall(r"`(\w+)`", test)
            assert names and set(names) <= set(defined), test
            expected = "\n".join(strings_of(defined[name]) for name in names)
            for words in re.findall(r"`([^`]+)`", said):
                missing = [part for part in VARYING.split(words) if part.strip() not in expected]
                assert not missing, f"{names} expect no {missing}"


def test_a_path_that_does_not_exist_is_found():
    text = "see `models/gone.py`, components/PACKAGE/NAME.py, docs/data.md and https://host/docs/gone.md"
    assert {path for path in named_paths(text) if not (ROOT / path).exists()} == {"models/gone.py"}
    assert "gone.py" in tree("## The files\n```\nmodels/    torch\n  gone.py  nothing\n```\n")["models/"]


def test_the_packages_of_the_tests_are_the_same_in_ci_doctor_and_the_guide_for_contributors():
    packages = ["chromium", "chromium-driver", "nginx-light", "openssl", "systemd"]
    assert [*TEST_PROGRAMS.values()] == packages
    assert f"apt-get install -y -qq --no-install-recommends {' '.join(packages)}\n" in (ROOT / ".ci/run").read_text()
    assert f"The tests need {', '.join(packages[:-1])} and {packages[-1]}, the packages of Debian" in (ROOT / "CONTRIBUTING.md").read_text()


def blocks(document: str, language: str) -> list[str]:
    """The blocks of code of a document in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_unit_of_the_service_is_one_that_systemd_reads(tmp_path):
    assert shutil.which("systemd-analyze"), "the unit is tested by systemd's own parser; install systemd"
    (unit,) = blocks("docs/storage.md", "ini")
    assert "ExecStart=/srv/mirepoix/.venv/bin/mirepoix serve" in unit
    file = tmp_path / "mirepoix.service"
    file.write_text(unit.replace("/srv/mirepoix/.venv/bin/mirepoix", "/bin/true"))  # the program itself is not there
    checked = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)
    assert not [line for line in checked.stderr.splitlines() if "mirepoix.service" in line], checked.stderr
    file.write_text(unit.replace("KillMode=mixed", "KillMode=gently"))
    assert "gently" in subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True).stderr


def test_the_proxy_of_the_service_is_one_that_nginx_reads(tmp_path):
    assert shutil.which("nginx") and shutil.which("openssl"), "the proxy's file is tested in nginx; install nginx-light and openssl"
    (server,) = blocks("docs/storage.md", "nginx")
    pem, key = tmp_path / "search.example.org.pem", tmp_path / "search.example.org.key"
    subject, out = ["-subj", "/CN=search.example.org"], ["-keyout", str(key), "-out", str(pem)]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *out]
    subprocess.run(make, check=True, capture_output=True)
    server = server.replace("/etc/ssl", str(tmp_path))
    config = f"pid {tmp_path}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{server}\n}}\n"
    (tmp_path / "nginx.conf").write_text(config)
    checked = subprocess.run(["nginx", "-t", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
