//! What users are asked about their changes, and what they can say beforehand.

use super::error::ImageError;
use super::naming::SaveTarget;
use super::save::{Question, Saves};
use crate::backend::{Answer, Console, SessionRequest};
use crate::names::AccountName;

/// The variable by which a client says beforehand what is to become of the changes.
const SAVE_AS: &str = "WALTGATE_SAVE_AS";
/// Its value that is no image's name: changes are thrown away.
const DISCARD: &str = "discard";

/// What a user wants to become of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Save under this name.
    Save(SaveTarget),
    /// Throw them away.
    Abandon,
    /// Nobody was there to decide: keep them for later.
    Keep,
}

impl Decision {
    /// What the client decided when it asked for the session.
    pub(super) fn beforehand(
        account: &AccountName,
        request: &SessionRequest,
    ) -> Result<Option<Self>, ImageError> {
        let Some((_, value)) = request.env.iter().rev().find(|(name, _)| name == SAVE_AS) else {
            return Ok(None);
        };
        if value == DISCARD {
            return Ok(Some(Self::Abandon));
        }
        SaveTarget::typed(account, value)
            .map(|target| Some(Self::Save(target)))
            .map_err(|reason| ImageError::BadSaveAs { reason })
    }
}

impl Saves {
    /// Asks what to do, until the answer can be followed.
    pub(super) async fn ask(&self, question: Question<'_>, console: &mut dyn Console) -> Decision {
        let same = question.same_name();
        let mut can_keep_name = true;
        if let Err(error @ (ImageError::BaseChanged { .. } | ImageError::NameTaken { .. })) =
            self.check(question.container, same).await
        {
            can_keep_name = false;
            console.say(&sentence(&error)).await;
        }
        let enter = match (can_keep_name, question.is_clone()) {
            (false, _) => String::new(),
            (true, true) => format!(", or press Enter to save as \"{}\"", same.shown),
            (true, false) => format!(", or press Enter to overwrite \"{}\"", same.shown),
        };
        let prompt = format!("Enter a new image name{enter} (ctrl-C: abort): ");
        console.discard_input();
        loop {
            let typed = match console.ask(&prompt).await {
                Answer::Line(line) => line,
                Answer::Interrupted => return Decision::Abandon,
                Answer::Gone => return Decision::Keep,
            };
            if is_yes(&typed) || is_no(&typed) || (typed.is_empty() && !can_keep_name) {
                console.say("That is no name; type one, or press ctrl-C.").await;
                continue;
            }
            let target = if typed.is_empty() {
                same.clone()
            } else {
                match SaveTarget::typed(question.caller.account(), &typed) {
                    Ok(target) => target,
                    Err(reason) => {
                        console.say(&format!("{reason}.")).await;
                        continue;
                    }
                }
            };
            if let Err(error) = self.check(question.container, &target).await {
                console.say(&sentence(&error)).await;
                continue;
            }
            if target != *same {
                return Decision::Save(target);
            }
            match self.confirm(question, console).await {
                Answer::Line(line) if is_yes(&line) => return Decision::Save(target),
                Answer::Line(_) => {}
                Answer::Interrupted => return Decision::Abandon,
                Answer::Gone => return Decision::Keep,
            }
        }
    }

    async fn confirm(&self, question: Question<'_>, console: &mut dyn Console) -> Answer {
        let same = question.same_name();
        if question.is_clone() {
            console.say(&question.clone_notice()).await;
            return console.ask(&format!("Save as \"{}\"? (y/n): ", same.fullname)).await;
        }
        let nodes = self.listener.nodes_running(&same.fullname);
        let names = nodes.join(", ");
        let booted_by = match nodes.len() {
            0 if self.listener.is_in_use(&same.fullname) => {
                " and some node boots it, which changes at its next reboot".to_owned()
            }
            0 => String::new(),
            1 => format!(" and 1 node boots it ({names}), which changes at its next reboot"),
            count => {
                format!(" and {count} nodes boot it ({names}), which change at their next reboot")
            }
        };
        console
            .ask(&format!(
                "Image \"{}\" will be overwritten{booted_by}. Are you sure? (y/n): ",
                same.shown
            ))
            .await
    }
}

/// An error as a line of a conversation.
pub(super) fn sentence(error: &ImageError) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        format!("{}{}.", first.to_uppercase(), characters.as_str())
    })
}

/// Whether an answer is one word for yes.
pub(super) fn is_yes(line: &str) -> bool {
    matches!(line.to_ascii_lowercase().as_str(), "y" | "yes")
}

fn is_no(line: &str) -> bool {
    matches!(line.to_ascii_lowercase().as_str(), "n" | "no")
}
