"""Where settings come from: the environment, and files of a directory of secrets."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.settings import Settings


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of secrets as containers have it, named in the environment."""
    (tmp_path / "roommeter_store").write_text("http://u:secret@clickhouse:8123\n")
    (tmp_path / "OF_LIVEKIT").write_text("of a server\n")
    monkeypatch.setenv("ROOMMETER_SECRETS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("directory")
def test_a_file_of_secrets_is_a_setting() -> None:
    """The address of the store has a password, and stands in no environment."""
    assert Settings().store == "http://u:secret@clickhouse:8123"


@pytest.mark.usefixtures("directory")
def test_the_environment_comes_before_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets a variable means it; what a command is told comes before both."""
    monkeypatch.setenv("ROOMMETER_STORE", "chdb:///tmp/x")
    assert Settings().store == "chdb:///tmp/x"
    assert Settings(store="chdb:///tmp/y").store == "chdb:///tmp/y"


def test_secrets_that_other_files_name_are_variables_or_files(directory: Path) -> None:
    """`secret_env` of projects.toml and delivery.toml: a variable first, else a file without its last newline."""
    settings = Settings()
    assert settings.secrets({})["OF_LIVEKIT"] == "of a server"
    assert settings.secrets({"OF_LIVEKIT": "of another"})["OF_LIVEKIT"] == "of another"
    assert settings.secrets_dir == directory


def test_without_a_directory_there_are_variables_alone() -> None:
    """Nothing is read from anywhere."""
    assert Settings().secrets({"A": "b"}) == {"A": "b"}


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else everything would run on defaults, with a store of its own."""
    monkeypatch.setenv("ROOMMETER_SECRETS_DIR", str(tmp_path / "nothing"))
    with pytest.raises(ValidationError, match="secrets_dir"):
        Settings()
