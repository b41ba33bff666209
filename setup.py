"""What pyproject.toml cannot say: building takes MediaPipe's face nets out of its wheel."""

import runpy

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithNets(build_py):
    """`build_py`, once the nets lie in engine/bundles/face, from where it packs them."""

    def run(self) -> None:
        """Fetch what is missing, then build."""
        runpy.run_path("engine/face/mediapipe_nets.py")["fetch"]()
        super().run()


setup(cmdclass={"build_py": BuildWithNets})
