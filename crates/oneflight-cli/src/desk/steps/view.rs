//! A mutation of steps, as the desk prints it.

use oneflight::RequestIdentity;
use oneflight::record::Decoded;
use oneflight::store::{StepId, StepRecord, WorkflowRecord};
use serde::Serialize;

use crate::desk::view::{Bodies, ResultView};
use crate::output::{self, fields};

/// A mutation of steps, as it is printed.
#[derive(Debug, Serialize)]
pub(in crate::desk) struct StepsView {
    key: String,
    scope: String,
    /// The name of its workflow: empty if it has none.
    workflow: String,
    version: String,
    token: u64,
    /// How often a completer took it up.
    tries: u32,
    /// Whether it waits for a person.
    held: bool,
    input: ResultView,
    steps: Vec<StepView>,
}

#[derive(Debug, Serialize)]
struct StepView {
    name: String,
    key: String,
    /// `done`, `in-doubt` (it was begun, and has not told), or `answer-lost` (it was done, and its answer is not kept).
    state: &'static str,
    /// The key under which it is known to what it calls.
    downstream_key: String,
    result: Option<ResultView>,
}

impl StepsView {
    pub(in crate::desk) fn of(id: &RequestIdentity, known: &WorkflowRecord, bodies: Bodies) -> Self {
        let step = |step: &StepRecord| StepView {
            name: step.id.name().to_owned(),
            key: step.id.key().to_owned(),
            state: state(step),
            downstream_key: step.id.downstream_key(id),
            result: step.result.as_ref().map(|result| ResultView::of(result, bodies)),
        };
        Self {
            key: id.key().to_owned(),
            scope: id.scope().to_owned(),
            workflow: known.name.clone(),
            version: known.version.clone(),
            token: known.token.get(),
            tries: known.tries,
            held: known.held,
            input: ResultView::of(&known.input, bodies),
            steps: known.steps.iter().map(step).collect(),
        }
    }

    /// Returns the steps that wait for a person.
    pub(in crate::desk) fn open(&self) -> Vec<String> {
        let open = self.steps.iter().filter(|step| step.state != "done");
        open.map(|step| StepId::new(&*step.name, &*step.key).to_string())
            .collect()
    }

    pub(in crate::desk) fn text(&self) -> String {
        let mut text = fields(&[
            ("key", Some(self.key.clone())),
            ("workflow", Some(self.workflow.clone()).filter(|name| !name.is_empty())),
            (
                "version",
                Some(self.version.clone()).filter(|version| !version.is_empty()),
            ),
            ("tries", Some(format!("{} by completers", self.tries))),
            (
                "held",
                Some(if self.held { "yes: it waits for a person" } else { "no" }.to_owned()),
            ),
            ("input", Some(self.input.recorded())),
        ]);
        if let Some(shown) = self.input.shown() {
            text.push_str(&format!("\n  {}", output::visible(shown)));
        }
        text.push_str("\n\n");
        if self.steps.is_empty() {
            text.push_str("no step is recorded yet");
            return text;
        }
        text.push_str(&output::table(
            &["STEP", "KEY", "STATE", "ANSWER", "DOWNSTREAM KEY"],
            &self.steps,
            |step| {
                let answer = step.result.as_ref().map(|result| match result.shown() {
                    Some(shown) => shown.to_owned(),
                    None => result.recorded(),
                });
                vec![
                    step.name.clone(),
                    step.key.clone(),
                    step.state.to_owned(),
                    answer.unwrap_or_default(),
                    step.downstream_key.clone(),
                ]
            },
        ));
        text
    }
}

fn state(step: &StepRecord) -> &'static str {
    match step.result.as_ref().map(|result| result.decode()) {
        None => "in-doubt",
        Some(Ok(Decoded::TooLarge { .. } | Decoded::NotEncodable)) => "answer-lost",
        Some(_) => "done",
    }
}
