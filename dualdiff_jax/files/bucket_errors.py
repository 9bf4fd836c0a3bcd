"""The errors of the clouds' libraries, which share no class, as the ``OSError`` that a disk would give.

no such object or bucket                ENOENT
an object exists, against a condition   EEXIST
no credentials, or no permission        EACCES
a quota is used up                      EDQUOT
the service does not answer, all else   EIO
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from dualdiff_jax.errors import UserError, quoted, reason

QUOTA = re.compile(r"quota|rate ?limit|slow ?down|too many requests", re.IGNORECASE)
REFUSED = re.compile(
    r"forbidden|access ?denied|permission|unauthori[sz]ed|anonymous caller|credential|invalidaccesskey|signaturedoes",
    re.IGNORECASE,
)
ABSENT = re.compile(r"not ?found|nosuch(key|bucket)|does not exist", re.IGNORECASE)
KINDS = {FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST, IsADirectoryError: errno.EISDIR}


@contextlib.contextmanager
def as_os_errors(path: object) -> Iterator[None]:
    """A context that translates what goes wrong with ``path`` into ``OSError``."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError) as error:
        number = next(n for kind, n in KINDS.items() if isinstance(error, kind))
        raise type(error)(number, os.strerror(number), str(path)) from error
    except UserError:
        raise
    except Exception as error:  # of aiohttp, google.auth, botocore, gcsfs and s3fs, which share no class
        number = _number(error)
        what = {errno.ENOENT: "no such object or bucket", errno.EACCES: "no permission or no credentials"}
        said = reason(error)
        if number == errno.EEXIST:
            raise FileExistsError(number, os.strerror(number), str(path)) from error
        if number == errno.ENOENT:
            raise FileNotFoundError(number, what[number], str(path)) from error
        raise OSError(number, f"{what.get(number, os.strerror(number))}: {quoted(said)}", str(path)) from error


def bucket_fault(error: OSError) -> str:
    """What ``as_os_errors`` raised, as a sentence that says what to do."""
    login = "aws configure" if str(error.filename).startswith("s3:") else "gcloud auth application-default login"
    advice = {
        errno.EACCES: f"grant this account the permission to read, list and write there, or log in with {login}",
        errno.ENOENT: "check the names of the bucket and of the object",
        errno.EDQUOT: "wait, or raise the quota",
    }
    return f"{error.filename}: {error.strerror}; {advice.get(error.errno or 0, 'try again')}"


def _number(error: Exception) -> int:
    code = getattr(error, "code", None) or getattr(error, "status", None)
    text = f"{type(error).__name__} {error}"
    if str(code) in ("409", "412") or "preconditionfailed" in text.lower().replace(" ", ""):
        return errno.EEXIST
    if str(code) == "429" or QUOTA.search(text):
        return errno.EDQUOT
    if str(code) in ("401", "403") or isinstance(error, PermissionError) or REFUSED.search(text):
        return errno.EACCES
    if str(code) == "404" or ABSENT.search(text):
        return errno.ENOENT
    return errno.EIO
