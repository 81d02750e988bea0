# The compiled module, untyped on purpose: only the wrappers in this folder may touch it, and
# they give it types.
from typing import Any

ffi: Any
lib: Any
