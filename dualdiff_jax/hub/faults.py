"""What the hub's errors mean to a user, in one sentence each."""

import contextlib
import json
from collections.abc import Iterator

from huggingface_hub import errors

from dualdiff_jax.errors import UserError, reason

LOG_IN = "give token=..., or set HF_TOKEN"


class UnreachableError(UserError):
    """The hub does not answer, or may not be asked."""


@contextlib.contextmanager
def as_user_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """A context that raises ``UserError``, or ``UnreachableError``, where the hub refuses or does not answer.

    Args:
        name: the model's, ``ORGANISATION/NAME``.
        revision: that was asked for.
    """
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{name}: is gated; accept its conditions on its page of the hub, and {LOG_IN}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name}: has no revision {revision!r}; name a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: there is no such folder here and no such model on the hub, or it is private; "
            f"check the name; for a private model, {LOG_IN}"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"{name}: is no name of a model on the hub; give ORGANISATION/NAME") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(f"{name}: the hub refuses this token ({status}); {LOG_IN} that may do this") from error
        raise UnreachableError(f"{name}: the hub answers with an error ({reason(error)}); try again later") from error
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError(
            f"{name}: is no folder here, and the hub may not be asked (HF_HUB_OFFLINE is set); unset it"
        ) from error
    except UserError:
        raise
    except (
        errors.HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        OSError,
        RuntimeError,
        json.JSONDecodeError,
    ) as error:  # as connections and files fail
        if isinstance(error, OSError) and error.filename:
            raise UserError(f"{error.filename}: cannot be written ({error.strerror}); make room") from error
        raise UnreachableError(
            f"{name}: is no folder here, and the hub cannot be reached ({reason(error)}); check the network"
        ) from error
