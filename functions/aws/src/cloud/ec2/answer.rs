//! Parses EC2's answers, results and errors.

use aws_sdk_autoscaling::{config::http::HttpResponse, error::ErrorMetadata, operation::RequestId};
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;
use aws_types::request_id::apply_request_id;
use roxmltree::{Document, Node};

/// A result, with the request ID that CloudTrail records too.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    pub(crate) request_id: Option<String>,
    pub(crate) value: T,
}

/// An answer without a required field.
#[derive(Debug, thiserror::Error)]
#[error("the answer has no {0}")]
pub(crate) struct Unreadable(pub(crate) &'static str);

/// An XML element of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a, 'input>(Node<'a, 'input>);

impl<'a, 'input: 'a> Element<'a, 'input> {
    pub(crate) fn child(self, name: &str) -> Option<Self> {
        self.0.children().find(|child| is(child, name)).map(Self)
    }

    /// The `item`s of a list, none if it is absent.
    pub(crate) fn items(self, list: &str) -> impl Iterator<Item = Self> {
        let children = self.child(list).into_iter().flat_map(|list| list.0.children());
        children.filter(|child| is(child, "item")).map(Self)
    }

    /// The text of a child, if it is not empty.
    pub(crate) fn text(self, child: &str) -> Option<&'a str> {
        self.child(child)?.0.text().map(str::trim).filter(|text| !text.is_empty())
    }
}

/// In any namespace: each version of the API has its own.
fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

/// Parses an answer of any status. Anything but an answer to this action, such as a proxy's error page, is an error.
pub(super) fn read<T>(
    response: &HttpResponse,
    action: &str,
    read: fn(Element<'_, '_>) -> Result<T, Unreadable>,
) -> Result<Answered<T>, OrchestratorError<ErrorMetadata>> {
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| OrchestratorError::response(error);
    let body = response.body().bytes().ok_or_else(|| unreadable("the body was not read".into()))?;
    let text = std::str::from_utf8(body).map_err(|error| unreadable(error.into()));
    let document = text.and_then(|text| Document::parse(text).map_err(|error| unreadable(error.into())));
    if !response.status().is_success() {
        // Without EC2's own error code it is unknown whether the request took effect.
        let answered =
            document.as_ref().ok().and_then(|document| aws_error(Element(document.root_element())));
        return Err(OrchestratorError::operation(error(answered, response)));
    }
    let document = document?;
    let root = document.root_element();
    if root.tag_name().name().strip_suffix("Response") != Some(action) {
        return Err(unreadable(format!("{:?} is not an answer to {action}", root.tag_name().name()).into()));
    }
    let value = read(Element(root)).map_err(|error| unreadable(error.into()))?;
    Ok(Answered { request_id: response.request_id().map(ToOwned::to_owned), value })
}

fn aws_error<'a>(response: Element<'a, '_>) -> Option<(&'a str, &'a str)> {
    let error = response.child("Errors")?.child("Error")?;
    Some((error.text("Code")?, error.text("Message").unwrap_or_default()))
}

fn error(answered: Option<(&str, &str)>, response: &HttpResponse) -> ErrorMetadata {
    let mut error = ErrorMetadata::builder();
    if let Some((code, message)) = answered {
        error = error.code(code).message(message);
    }
    apply_request_id(error, response.headers()).build()
}
