"""What setup.cfg cannot say: the compiled parts."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"hvd_dqn.{name}",
            [f"hvd_dqn/{path}.c"],
            extra_compile_args=["-O3"],
            libraries=["m"],
        )
        for name, path in (
            ("replay.kernels", "replay/kernels"),
            ("distributed.flags", "distributed/flags"),
            ("tools.launching.narrow", "tools/launching/narrow"),  # preloaded, not imported
        )
    ]
)
