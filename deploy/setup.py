"""For `--setup_file` of Beam: copy it beside pyproject.toml; all it needs to say is there."""

import setuptools

setuptools.setup()
