//! Documents in Markdown as HTML, with the anchors that other hosts of Markdown give to headings.

use std::collections::BTreeMap;

use pulldown_cmark::{Alignment, CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// Returns the HTML of a document. Links to files that are not served become text, and so do images.
pub(super) fn to_html(text: &str, is_served: impl Fn(&str) -> bool) -> String {
    let mut events: Vec<Event<'_>> = Parser::new_ext(text, Options::ENABLE_TABLES).collect();
    add_anchors(&mut events);
    let mut is_link = true;
    let mut is_diagram = false;
    let mut tables = 0;
    let shown = events.into_iter().flat_map(|event| match event {
        Event::Start(Tag::Link { ref dest_url, .. }) => {
            is_link = works(dest_url, &is_served);
            is_link.then_some(event).into_iter().collect()
        }
        Event::End(TagEnd::Link) => is_link.then_some(event).into_iter().collect(),
        Event::Start(Tag::Image { .. }) => vec![Event::Start(Tag::Emphasis)],
        Event::End(TagEnd::Image) => vec![Event::End(TagEnd::Emphasis)],
        // A wide table scrolls, also by keyboard. Alignment would be an inline style, which the policy of the pages forbids.
        Event::Start(Tag::Table(columns)) => {
            vec![markup(table(&mut tables)), Event::Start(Tag::Table(vec![Alignment::None; columns.len()]))]
        }
        Event::End(TagEnd::Table) => vec![event, markup("</div>".to_owned())],
        Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(ref language))) if **language == *"mermaid" => {
            is_diagram = true;
            vec![markup("<details><summary>Diagram, as Mermaid source</summary>".to_owned()), event]
        }
        Event::End(TagEnd::CodeBlock) if std::mem::take(&mut is_diagram) => {
            vec![event, markup("</details>".to_owned())]
        }
        event => vec![event],
    });
    let mut page = String::with_capacity(text.len() * 2);
    html::push_html(&mut page, shown);
    page
}

fn markup(html: String) -> Event<'static> {
    Event::Html(html.into())
}

/// Returns the beginning of the region of the next table. Regions need different names.
fn table(count: &mut u32) -> String {
    *count += 1;
    format!(r#"<div class="table" role="region" aria-label="Table {count}" tabindex="0">"#)
}

fn works(target: &str, is_served: impl Fn(&str) -> bool) -> bool {
    let file = target.split('#').next().unwrap_or_default();
    file.is_empty() || target.starts_with("https://") || is_served(file)
}

fn add_anchors(events: &mut [Event<'_>]) {
    let mut used = BTreeMap::new();
    for at in 0..events.len() {
        if !matches!(events[at], Event::Start(Tag::Heading { .. })) {
            continue;
        }
        let content = events[at..].iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
        let texts = content.filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
            _ => None,
        });
        let anchor = anchor(&texts.collect::<String>());
        let count = used.entry(anchor.clone()).and_modify(|count| *count += 1).or_insert(0);
        let anchor = if *count == 0 { anchor } else { format!("{anchor}-{count}") };
        if let Event::Start(Tag::Heading { id, .. }) = &mut events[at] {
            *id = Some(CowStr::from(anchor));
        }
    }
}

/// Returns the anchor of a heading: lower case, hyphens for spaces, and no punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_anchors() {
        let html =
            to_html("# How to read `/pool` in six situations\n## Health: up, down\n## Health: up, down\n", |_| false);
        assert!(html.contains("<h1 id=\"how-to-read-pool-in-six-situations\">"), "{html}");
        assert!(html.contains("<h2 id=\"health-up-down\">") && html.contains("<h2 id=\"health-up-down-1\">"), "{html}");
    }

    #[test]
    fn links_to_files_that_are_not_served_become_text() {
        let text = "[here](#a) [feed](FEED.md#b) [code](../src/lib.rs) ![a picture](images/a.png)";
        let html = to_html(text, |name| name == "FEED.md");
        assert_eq!(html, "<p><a href=\"#a\">here</a> <a href=\"FEED.md#b\">feed</a> code <em>a picture</em></p>\n");
    }
}
