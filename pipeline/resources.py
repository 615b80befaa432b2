"""Where the files that ship with the package are: schemas, migrations, recordings."""

from pathlib import Path


def schemas() -> Path:
    """Return the directory of schemas: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "_schemas"
    return installed if installed.is_dir() else package.parent / "schemas"
