#!/bin/bash
# Makes the virtual environment with all that the package is built, tested and linted with:
# `venv.sh FOLDER [PYTHON]`. The package itself is installed into it by the Makefile, so that a
# change in C does not fetch anything.
#
# The system's Python is preferred: its headers come with apt, while a `python3` found first on
# PATH may be anybody's.
set -euo pipefail

venv=$1
chosen=${2:-}

fits() {
	"$1" - <<-'PYTHON' 2>/dev/null
		import ensurepip, pathlib, sys, sysconfig, venv
		header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
		sys.exit(not (sys.version_info >= (3, 11) and header.exists()))
	PYTHON
}

if [[ -n $chosen ]]; then
	fits "$chosen" || {
		echo "error: PYTHON=$chosen is not a Python 3.11 or newer with venv and Python.h" >&2
		exit 1
	}
else
	for candidate in /usr/bin/python3 python3 python3.{14,13,12,11}; do
		if fits "$candidate"; then
			chosen=$candidate
			break
		fi
	done
	[[ -n $chosen ]] || {
		echo "error: no Python 3.11 or newer with venv and Python.h found;" \
			"name one: make PYTHON=/path/to/python3" >&2
		exit 1
	}
fi

# One that is here, of the same Python and not moved from elsewhere, only gets what is new.
same='import sys; print(sys.version, sys.base_prefix)'
if [[ $("$venv/bin/python" -c "$same" 2>/dev/null) == "$("$chosen" -c "$same")" ]] &&
	head -n 1 "$venv/bin/pip" 2>/dev/null | grep -qF "#!$PWD/$venv/bin/"; then
	echo "==> bringing $venv up to date"
else
	echo "==> making $venv with $("$chosen" --version) ($(command -v "$chosen"))"
	"$chosen" -m venv --clear "$venv"
fi
pip=("$venv/bin/python" -m pip install -qq --disable-pip-version-check)

# What is needed and in which version is said once, in pyproject.toml.
"$venv/bin/python" - <<-'PYTHON' >"$venv/requirements.txt"
	import tomllib
	with open("pyproject.toml", "rb") as file:
	    data = tomllib.load(file)
	project = data["project"]
	for name in (data["build-system"]["requires"], project["dependencies"],
	             *project["optional-dependencies"].values()):
	    print("\n".join(name))
PYTHON
# Always by way of a wheel: where an old pip finds no `wheel` yet it runs `setup.py install`, which
# keeps no record of what is installed that tools/install.py could go by.
"${pip[@]}" --use-pep517 -r "$venv/requirements.txt"
