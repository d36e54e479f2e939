"""Records as files for other tools: rows in the columns of a form, and their media beside them, or within.

The service, the command line and the console write with these plain functions. An import reads a row back to the
same record, but for its id, which only whole records keep. What a form has no place for is not written, and counted; a
record that would come back otherwise is left out, and counted with the reason.
"""

from omnialign.exporting.folder import ExportCounts, export
from omnialign.exporting.forms import FORMS, RECORDS, Form, form_of
from omnialign.exporting.rows import Unwritable

__all__ = ["FORMS", "RECORDS", "ExportCounts", "Form", "Unwritable", "export", "form_of"]
