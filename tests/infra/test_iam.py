"""The evaluator with which the permissions are tested decides as IAM does, for the policies in use."""

import pytest

from iam import Request, allows

TABLE = "arn:aws:dynamodb:eu-west-1:111122223333:table/A"


def statement(effect="Allow", action="dynamodb:PutItem", resource=TABLE, **condition):
    return {"Effect": effect, "Action": action, "Resource": resource, **({"Condition": condition} if condition else {})}


def put(**context):
    return Request("dynamodb:PutItem", TABLE, {key.replace("_", ":", 1): value for key, value in context.items()})


@pytest.mark.parametrize(
    ("statements", "request_", "allowed"),
    [
        ([], put(), False),
        ([statement()], put(), True),
        ([statement(), statement("Deny")], put(), False),
        ([statement("Deny", "dynamodb:*"), statement()], put(), False),
        ([statement(action="DYNAMODB:putitem")], put(), True),
        ([statement(action="dynamodb:Put?tem")], put(), True),
        ([statement(action="dynamodb:Put")], put(), False),
        ([statement(action=["dynamodb:GetItem", "dynamodb:PutItem"])], put(), True),
        ([statement(resource=f"{TABLE}/index/*")], put(), False),
        ([statement(resource="arn:aws:dynamodb:*:*:table/*")], put(), True),
        ([statement(resource=TABLE.lower())], put(), False),
        # Without the key in the request, a comparison fails, except with ForAllValues.
        ([statement(StringEquals={"aws:x": "1"})], put(), False),
        ([statement(StringEquals={"aws:x": "1"})], put(aws_x="1"), True),
        ([statement(StringEquals={"aws:x": ["1", "2"]})], put(aws_x="2"), True),
        ([statement(StringEquals={"aws:x": "a*"})], put(aws_x="ab"), False),
        ([statement(StringLike={"aws:x": "a*"})], put(aws_x="ab"), True),
        ([statement(StringEquals={"aws:x": "1", "aws:y": "1"})], put(aws_x="1"), False),
        ([statement(), statement("Deny", ArnLike={"aws:x": "arn:*:function:*"})], put(aws_x="arn:aws:function:a"), False),
        ([statement(), statement("Deny", ArnLike={"aws:x": "arn:*:function:*"})], put(), True),
        ([statement(**{"ForAllValues:StringLike": {"dynamodb:LeadingKeys": "a#*"}})], put(dynamodb_LeadingKeys=["a#1", "a#2"]), True),
        ([statement(**{"ForAllValues:StringLike": {"dynamodb:LeadingKeys": "a#*"}})], put(dynamodb_LeadingKeys=["a#1", "b#2"]), False),
        ([statement(**{"ForAllValues:StringLike": {"dynamodb:LeadingKeys": "a#*"}})], put(), True),
    ],
)
def test_it_decides_as_iam_does(statements, request_, allowed):
    assert allows(statements, request_) == allowed


def test_the_key_of_a_tag_is_case_sensitive_and_the_name_of_a_condition_key_is_not():
    tagged = statement(StringEquals={"autoscaling:ResourceTag/Team": "a"})
    assert allows([tagged], Request("dynamodb:PutItem", TABLE, {"autoscaling:resourcetag/Team": "a"}))
    assert not allows([tagged], Request("dynamodb:PutItem", TABLE, {"autoscaling:ResourceTag/team": "a"}))


@pytest.mark.parametrize(
    "unknown",
    [
        {"Effect": "Allow", "NotAction": "x:Y", "Action": "x:Y", "Resource": "*"},
        {**statement(), "NotResource": "*"},
        statement(NumericEquals={"aws:x": "1"}),
        statement(**{"ForAnyValue:StringEquals": {"aws:x": "1"}}),
    ],
)
def test_an_unsupported_statement_is_an_error_and_never_a_pass(unknown):
    with pytest.raises((ValueError, KeyError)):
        allows([unknown], put(aws_x="1"))
