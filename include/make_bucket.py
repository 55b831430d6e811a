"""The bucket of a new deployment, which keeps versions: snapshots of a past instant need them.

python -m include.make_bucket s3://gesso        # leaves one that is there as it is
"""

import sys
from collections.abc import Sequence
from typing import Any

from tasks.core.errors import GessoError, ParamsError, StoreError


def make_bucket(client: Any, name: str) -> bool:
    """Make the bucket, unless it is there.

    Returns:
        Whether it keeps versions. One that was made here does.

    Raises:
        StoreError: S3 refuses, or can't be reached.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        if not _is_there(client, name):
            client.create_bucket(Bucket=name)
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return bool(client.get_bucket_versioning(Bucket=name).get("Status") == "Enabled")
    except (BotoCoreError, ClientError) as error:
        raise StoreError(f"The bucket {name} can't be had: {error}") from None


def _is_there(client: Any, name: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def main(arguments: Sequence[str]) -> int:
    """Make the bucket that the command line names; the exit status is 0, or the error's."""
    try:
        uri = arguments[0] if arguments else ""
        name = uri.removeprefix("s3://").rstrip("/")
        if not uri.startswith("s3://") or not name or "/" in name:
            raise ParamsError(f"{uri!r} is not a bucket. Expected s3://NAME.")
        import boto3

        versions = make_bucket(boto3.Session().client("s3"), name)
    except GessoError as error:
        print(f"gesso: {error}", file=sys.stderr)
        return error.exit_status
    print(f"The bucket {uri} is there and keeps {'' if versions else 'no '}versions.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
