"""What setup.cfg cannot say: the compiled part."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "hvd_dqn.replay.kernels", ["hvd_dqn/replay/kernels.c"], extra_compile_args=["-O3"]
        )
    ]
)
