"""For mkdocs: the documents of the repository's top are pages of the site too."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPO = Path(__file__).parent.parent
PAGES = {"architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, with links as they are from inside `docs/`."""
    for page, source in PAGES.items():
        text = re.sub(r"\]\(docs/", "](", (REPO / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    return files
