"""What a run goes by that is given nothing: the params of `GESSO_PARAMS`, and the data set that they or the settings
name."""

from tasks.core.errors import ParamsError
from tasks.core.params import Params
from tasks.core.settings import settings


def default_params() -> Params:
    """The params of a run that gives none.

    Raises:
        ParamsError: `GESSO_PARAMS` can't be used.
    """
    try:
        return Params.of(settings().params)
    except ParamsError as error:
        raise ParamsError(f"GESSO_PARAMS can't be used. {error}") from None


def named_dataset() -> str:
    """The data set that the environment names; empty where it leaves runs the demo.

    Raises:
        ParamsError: `GESSO_PARAMS` can't be used.
    """
    return default_params().dataset or settings().dataset
