"""The forms of a network that ``smelt export`` writes and ``smelt validate`` runs, by the name each has there.

A further form is a module here that makes a :class:`~smelt.cli.forms.form.Form`, and its row in ``FORMS``. An option of
its own is one more line in ``smelt.cli.main._exported`` (or in one of the two commands) and its name in the form.
"""

from smelt.cli.forms import c99, object_file, onnx_file
from smelt.cli.forms.form import Form

FORMS: dict[str, Form] = {"c": c99.FORM, "object": object_file.FORM, "onnx": onnx_file.FORM}

__all__ = ["FORMS"]
