"""A local stand-in of the AWS services that a training job needs, behind the real boto3."""
