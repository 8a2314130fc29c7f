//! The engine with a scripted model in the place of a real one.
//!
//! Most tests turn the rounds by hand and look at what each generation was dealt; a few start the
//! real thread. Time stands still unless a test moves it.

mod any_order;
mod checkpoints;
mod forms;
mod readers;
mod replies;
mod threads;
mod turns;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::time::Duration;

use super::generation::EVENTS_MAX;
use super::scheduler::Step;
use super::*;
use crate::forecast::Round;
use crate::plan::MemoryPlan;
use crate::tokenizer::tests::{toy_json, toy_tokenizer};

const END: TokenId = 2;
const CONTEXT_TOKENS: usize = 4096;
const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + \
    '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A model that continues known prompts with known replies and babbles after all others.
#[derive(Clone, Default)]
struct Scripted {
    /// Prompt to reply; the end token comes by itself.
    replies: HashMap<Vec<TokenId>, Vec<TokenId>>,
    /// For each round, the tokens of each step.
    rounds: Arc<Mutex<Vec<Vec<usize>>>>,
    /// Reading this token panics.
    panics_at: Option<TokenId>,
    /// Reading this token is an error.
    fails_at: Option<TokenId>,
    /// Prompt tokens of a pass, if not as usual.
    prefill_tokens: Option<usize>,
}

impl Scripted {
    fn saying(prompt: &str, reply: &str) -> Scripted {
        Scripted::default().also_saying(prompt, reply)
    }

    fn also_saying(mut self, prompt: &str, reply: &str) -> Scripted {
        let tokens = |text| toy_tokenizer().encode_text(text).unwrap();
        self.replies.insert(tokens(prompt), tokens(reply));
        self
    }

    fn logits(&self, read: &[TokenId], logits: &mut Vec<f32>) {
        logits.clear();
        let script = self.replies.iter().find(|(prompt, _)| read.starts_with(prompt));
        let noise = |id: usize| {
            read.iter()
                .fold(id as u64, |hash, &t| (hash ^ u64::from(t)).wrapping_mul(0x0100_0000_01B3))
        };
        // Letters only, so that babble is readable and never ends.
        let letters = 'a' as usize - '!' as usize + 4;
        logits.extend((0..266).map(|id| match (letters..letters + 26).contains(&id) {
            true => (noise(id) >> 40 & 15) as f32 / 4.0,
            false => -50.0,
        }));
        if let Some((prompt, reply)) = script {
            let next = reply.get(read.len() - prompt.len()).copied().unwrap_or(END);
            logits[next as usize] = 50.0;
        }
    }
}

/// A state that cannot be rewound, as those of most models.
impl State for Vec<TokenId> {
    fn position(&self) -> usize {
        self.len()
    }

    fn pieces(&self, _: &mut dyn FnMut(usize, u64)) -> u64 {
        size_of_val(&**self) as u64
    }

    fn rewound(&self, _: usize) -> Option<Self> {
        None
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.iter().try_for_each(|token| out.write_all(&token.to_le_bytes()))
    }

    fn read(&mut self, input: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        self.extend(
            bytes.chunks_exact(4).map(|b| TokenId::from_le_bytes([b[0], b[1], b[2], b[3]])),
        );
        Ok(())
    }
}

impl Forward for Scripted {
    type Sequence = Vec<TokenId>;

    fn new_sequence(&self) -> Vec<TokenId> {
        Vec::new()
    }

    fn prefill_tokens(&self) -> usize {
        self.prefill_tokens.unwrap_or(256)
    }

    fn forward(&mut self, batch: &mut [Step<'_, Vec<TokenId>>]) -> Result<(), EngineError> {
        self.rounds.lock().unwrap().push(batch.iter().map(|step| step.tokens.len()).collect());
        for step in batch {
            if step.tokens.iter().any(|&token| Some(token) == self.panics_at) {
                panic!("scripted panic");
            }
            if step.tokens.iter().any(|&token| Some(token) == self.fails_at) {
                let what = "scripted failure".to_owned();
                return Err(EngineError::Expert { layer: 1, expert: 2, what });
            }
            for mark in step.marks.iter_mut() {
                mark.taken = Some([step.sequence, &step.tokens[..mark.at]].concat());
            }
            step.sequence.extend_from_slice(step.tokens);
            if let Some(logits) = step.logits.as_deref_mut() {
                self.logits(step.sequence, logits);
            }
        }
        Ok(())
    }
}

fn text_side() -> TextSide {
    TextSide {
        info: ModelInfo {
            name: "scripted".into(),
            architecture: "none".into(),
            quality: "demo".into(),
            context_tokens: CONTEXT_TOKENS,
            parameters: 0,
            dense_bytes: 0,
            expert_bytes: 0,
            quantisation: "none".into(),
            backend: "scripted".into(),
            io: crate::io::IoChoice::Buffered,
            io_depth: 1,
            read_bytes_per_second: None,
            expert_cache_bytes: 0,
            experts_per_token: 0,
            lossy: Vec::new(),
            plan: MemoryPlan { running_max: 4, ..MemoryPlan::default() },
        },
        tokenizer_json: toy_json(),
        chat_template: Some(CHATML.to_owned()),
        end_tokens: vec![END, 0],
        special: SpecialTokens::default(),
        sampling_defaults: SamplingOptions { temperature: Some(0.0), ..Default::default() },
    }
}

fn options(running_max: usize, waiting_max: usize) -> EngineOptions {
    EngineOptions {
        running_max: Some(running_max),
        waiting_max: Some(waiting_max),
        ..Default::default()
    }
}

/// An engine whose rounds are turned by hand.
struct Bench {
    engine: Engine,
    scheduler: Scheduler<Vec<TokenId>>,
    model: Scripted,
    clock: Clock,
}

impl Bench {
    fn new(model: Scripted, running_max: usize, waiting_max: usize) -> Bench {
        let clock = Clock::manual();
        let options = options(running_max, waiting_max);
        Bench::of(text_side(), model, &options, clock)
    }

    /// One reply at a time, by another chat template.
    fn with_template(model: Scripted, template: &str) -> Bench {
        let text = TextSide { chat_template: Some(template.to_owned()), ..text_side() };
        Bench::of(text, model, &options(1, 1), Clock::manual())
    }

    fn of(text: TextSide, model: Scripted, options: &EngineOptions, clock: Clock) -> Bench {
        let shared = Shared::new(text, options, clock.clone()).unwrap();
        let scheduler = shared.new_scheduler(&options.checkpoints).unwrap();
        Bench { engine: Engine { shared: Arc::new(shared) }, scheduler, model, clock }
    }

    fn round(&mut self) -> bool {
        self.scheduler.round(&mut self.model)
    }

    fn rounds(&mut self, count: usize) {
        (0..count).for_each(|_| assert!(self.round(), "nothing to compute"));
    }

    fn last_round(&self) -> Vec<usize> {
        self.model.rounds.lock().unwrap().last().cloned().unwrap_or_default()
    }

    fn submit(&self, prompt: &str) -> TokenStream {
        self.engine.submit(plain(prompt)).unwrap()
    }

    fn running(&self) -> usize {
        self.scheduler.running_count()
    }
}

fn plain(prompt: &str) -> GenerationRequest {
    GenerationRequest::new(PromptInput::Text(prompt.to_owned()))
}

/// Digits are tokens of their own: a prompt with exactly this many tokens.
fn long_prompt(tokens: usize) -> String {
    "7".repeat(tokens)
}

/// Takes what is there without waiting.
fn take(stream: &mut TokenStream) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    while let Ok(event) = stream.events.try_recv() {
        events.extend(stream.took(Some(event)));
    }
    events
}

fn text_of(events: &[StreamEvent]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        StreamEvent::Delta(delta) => Some(delta.content.as_str()),
        _ => None,
    });
    texts.collect()
}

fn end_of(events: &[StreamEvent]) -> String {
    match events.last() {
        Some(StreamEvent::Finished(finish)) => format!("{:?}", finish.reason),
        Some(StreamEvent::Failed(error)) => error.to_string(),
        _ => "open".to_owned(),
    }
}

/// Reads to the end on this thread.
fn read_all(mut stream: TokenStream) -> Vec<StreamEvent> {
    std::iter::from_fn(|| stream.next_blocking()).collect()
}

/// The whole of a scripted reply: text and how it ended.
fn reply_to(model: Scripted, request: GenerationRequest) -> (String, String, Vec<StreamEvent>) {
    let mut bench = Bench::new(model, 1, 1);
    let mut stream = bench.engine.submit(request).unwrap();
    while bench.round() {}
    let events = take(&mut stream);
    (text_of(&events), end_of(&events), events)
}

/// The text of a reply that nobody disturbs.
fn spoken_alone(request: GenerationRequest) -> String {
    let mut bench = Bench::new(Scripted::default(), 1, 1);
    let mut stream = bench.engine.submit(request).unwrap();
    let mut text = String::new();
    while bench.round() {
        text += &text_of(&take(&mut stream));
    }
    text
}
