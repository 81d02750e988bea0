"""Wires the compiled module into setuptools: cffi_modules cannot be declared in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["uffdtrackd/native/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
