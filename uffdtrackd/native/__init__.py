"""C in the daemon, behind typed wrappers: what is inside the stop window or loops over pages.

One module a noun (`inject`, `freeze`, `scan`, `copy`, `runs`), each the face of the C file of
the same name; modules of this folder are the only importers of the compiled `_native`.
They raise `error.NativeError` and know no policy.
"""
