//! Turns an answer of EC2's into what was asked for, or into EC2's own words of why not.

use aws_sdk_autoscaling::{config::http::HttpResponse, error::ErrorMetadata, operation::RequestId};
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;
use aws_types::request_id::apply_request_id;
use roxmltree::{Document, Node};

/// What was asked for, and the id under which CloudTrail knows that it was.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    pub(crate) request_id: Option<String>,
    pub(crate) value: T,
}

/// An answer that lacks what all have.
#[derive(Debug, thiserror::Error)]
#[error("an answer without its {0}")]
pub(crate) struct Unreadable(pub(crate) &'static str);

/// An element of the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a, 'input>(Node<'a, 'input>);

impl<'a, 'input: 'a> Element<'a, 'input> {
    pub(crate) fn child(self, name: &str) -> Option<Self> {
        self.0.children().find(|child| is(child, name)).map(Self)
    }

    /// The `item`s of a list; of one that is not there, none.
    pub(crate) fn items(self, list: &str) -> impl Iterator<Item = Self> {
        let children = self.child(list).into_iter().flat_map(|list| list.0.children());
        children.filter(|child| is(child, "item")).map(Self)
    }

    /// What stands in a child, if it has one with anything in it.
    pub(crate) fn text(self, child: &str) -> Option<&'a str> {
        self.child(child)?.0.text().map(str::trim).filter(|text| !text.is_empty())
    }
}

/// In whatever namespace: each version of the API has its own.
fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

/// Reads an answer of any status. What is no answer to this action, a page that a proxy made among them, is unreadable.
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
        // What isn't EC2's own error has no code, and with that tells nothing of what was done.
        let told = document.as_ref().ok().and_then(|document| aws_error(Element(document.root_element())));
        return Err(OrchestratorError::operation(error(told, response)));
    }
    let document = document?;
    let root = document.root_element();
    if root.tag_name().name().strip_suffix("Response") != Some(action) {
        return Err(unreadable(format!("a {:?} is no answer to {action}", root.tag_name().name()).into()));
    }
    let value = read(Element(root)).map_err(|error| unreadable(error.into()))?;
    Ok(Answered { request_id: response.request_id().map(ToOwned::to_owned), value })
}

fn aws_error<'a>(response: Element<'a, '_>) -> Option<(&'a str, &'a str)> {
    let error = response.child("Errors")?.child("Error")?;
    Some((error.text("Code")?, error.text("Message").unwrap_or_default()))
}

fn error(told: Option<(&str, &str)>, response: &HttpResponse) -> ErrorMetadata {
    let mut error = ErrorMetadata::builder();
    if let Some((code, message)) = told {
        error = error.code(code).message(message);
    }
    apply_request_id(error, response.headers()).build()
}
