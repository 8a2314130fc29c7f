//! The tensors of a model of random weights, in the order in which they lie in the file.
//!
//! Names, order of dimensions and forms are those of llama.cpp's converter: norms ready to multiply,
//! decay rates as −e^A.

use std::sync::Arc;

use super::noise::{Pool, mix, normal, uniform};
use super::shapes::{Family, KEY_HEADS, Shape};
use crate::tensor::DType;

/// One tensor: what the header says of it, and where its bytes come from.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Fastest dimension first, as the file has them.
    pub(super) dims: Vec<usize>,
    pub(super) source: Source,
}

/// What a tensor's bytes are.
pub(super) enum Source {
    /// Blocks of a pool, by their place.
    Blocks { pool: Arc<Pool>, seed: u64 },
    /// f32 values, by their place.
    Floats { values: Values, seed: u64 },
}

/// Where single values come from.
#[derive(Clone, Copy)]
pub(super) enum Values {
    /// 1.
    One,
    /// mean + deviation · N(0, 1).
    Normal { mean: f64, deviation: f64 },
    /// −(low + range · U(0, 1)).
    Decay { low: f64, range: f64 },
    /// A gate: rows of `cols` normal values; the logarithm of a row's length has the deviation `skew`.
    Gate { cols: usize, deviation: f64, skew: f64 },
}

impl Values {
    pub(super) fn at(self, seed: u64, index: u64) -> f32 {
        let value = match self {
            Values::One => 1.0,
            Values::Normal { mean, deviation } => mean + deviation * normal(seed, index),
            Values::Decay { low, range } => -(low + range * uniform(seed, index)),
            Values::Gate { cols, deviation, skew } => {
                let row = index / cols as u64;
                normal(seed, index) * deviation * (skew * normal(!seed, row)).exp()
            }
        };
        value as f32
    }
}

impl Tensor {
    /// Bytes in the file.
    pub(super) fn bytes(&self) -> usize {
        let rows: usize = self.dims[1..].iter().product();
        self.dtype.row_bytes(self.dims[0]).expect("a type was chosen that fits") * rows
    }
}

/// All tensors of a model.
pub(super) fn all(shape: &Shape, dtype: DType, skew: f64, seed: u64) -> Vec<Tensor> {
    let mut list = List { shape, dtype, skew, seed, pools: Vec::new(), tensors: Vec::new() };
    list.matrix("token_embd.weight", &[shape.hidden, shape.vocab], 0.5);
    for layer in 0..shape.layers {
        list.layer(layer);
    }
    list.floats("output_norm.weight", &[shape.hidden], Values::One);
    list.output();
    list.tensors
}

struct List<'a> {
    shape: &'a Shape,
    dtype: DType,
    skew: f64,
    seed: u64,
    /// By type and deviation.
    pools: Vec<(DType, f64, Arc<Pool>)>,
    tensors: Vec<Tensor>,
}

impl List<'_> {
    fn layer(&mut self, layer: usize) {
        let Shape { hidden, experts, intermediate, family, .. } = *self.shape;
        let name = |rest: &str| format!("blk.{layer}.{rest}");
        self.floats(&name("attn_norm.weight"), &[hidden], Values::One);
        if self.shape.is_recurrent(layer) {
            self.delta_net(&name);
        } else {
            self.attention(&name);
        }
        let post = if family == Family::Attention { "ffn_norm" } else { "post_attention_norm" };
        self.floats(&name(&format!("{post}.weight")), &[hidden], Values::One);
        let deviation = 1.5 / (hidden as f64).sqrt();
        let gate = Values::Gate { cols: hidden, deviation, skew: self.skew };
        self.floats(&name("ffn_gate_inp.weight"), &[hidden, experts], gate);
        self.scaled(&name("ffn_gate_exps.weight"), &[hidden, intermediate, experts]);
        self.scaled(&name("ffn_up_exps.weight"), &[hidden, intermediate, experts]);
        self.scaled(&name("ffn_down_exps.weight"), &[intermediate, hidden, experts]);
        if family != Family::Attention {
            let deviation = 1.0 / (hidden as f64).sqrt();
            let scale = Values::Normal { mean: 0.0, deviation };
            self.floats(&name("ffn_gate_inp_shexp.weight"), &[hidden], scale);
            self.scaled(&name("ffn_gate_shexp.weight"), &[hidden, intermediate]);
            self.scaled(&name("ffn_up_shexp.weight"), &[hidden, intermediate]);
            self.scaled(&name("ffn_down_shexp.weight"), &[intermediate, hidden]);
        }
    }

    fn attention(&mut self, name: &dyn Fn(&str) -> String) {
        let Shape { hidden, heads, kv_heads, head_dim, family, .. } = *self.shape;
        let gated = if family == Family::Attention { 1 } else { 2 };
        self.scaled(&name("attn_q.weight"), &[hidden, gated * heads * head_dim]);
        self.scaled(&name("attn_k.weight"), &[hidden, kv_heads * head_dim]);
        self.scaled(&name("attn_v.weight"), &[hidden, kv_heads * head_dim]);
        self.scaled(&name("attn_output.weight"), &[heads * head_dim, hidden]);
        self.floats(&name("attn_q_norm.weight"), &[head_dim], Values::One);
        self.floats(&name("attn_k_norm.weight"), &[head_dim], Values::One);
    }

    fn delta_net(&mut self, name: &dyn Fn(&str) -> String) {
        let hidden = self.shape.hidden;
        let Family::Hybrid { value_heads } = self.shape.family else {
            unreachable!("only hybrid models have delta nets")
        };
        let dim = self.shape.delta_dim();
        let (keys, values) = (KEY_HEADS * dim, value_heads * dim);
        let channels = 2 * keys + values;
        let normal = |mean, deviation| Values::Normal { mean, deviation };
        self.scaled(&name("attn_qkv.weight"), &[hidden, channels]);
        self.scaled(&name("attn_gate.weight"), &[hidden, values]);
        self.floats(&name("ssm_conv1d.weight"), &[4, channels], normal(0.0, 0.4));
        self.floats(&name("ssm_dt.bias"), &[value_heads], normal(-2.0, 1.0));
        self.floats(&name("ssm_a"), &[value_heads], Values::Decay { low: 0.5, range: 15.0 });
        self.scaled(&name("ssm_beta.weight"), &[hidden, value_heads]);
        self.scaled(&name("ssm_alpha.weight"), &[hidden, value_heads]);
        self.floats(&name("ssm_norm.weight"), &[dim], Values::One);
        self.scaled(&name("ssm_out.weight"), &[values, hidden]);
    }

    /// The output matrix: llama.cpp keeps it at six bits in a q4_0 file.
    fn output(&mut self) {
        let Shape { hidden, vocab, .. } = *self.shape;
        let usual = self.dtype;
        if usual == DType::Q4_0 {
            self.dtype = DType::Q6K;
        }
        self.scaled("output.weight", &[hidden, vocab]);
        self.dtype = usual;
    }

    /// A matrix whose products keep the size of their inputs.
    fn scaled(&mut self, name: &str, dims: &[usize]) {
        self.matrix(name, dims, 1.0 / (dims[0] as f64).sqrt());
    }

    fn matrix(&mut self, name: &str, dims: &[usize], deviation: f64) {
        let dtype = self.dtype.fitting(dims[0]);
        let pool = self.pool(dtype, deviation);
        let seed = mix(self.seed, self.tensors.len() as u64);
        let source = Source::Blocks { pool, seed };
        self.tensors.push(Tensor { name: name.to_owned(), dtype, dims: dims.to_vec(), source });
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: Values) {
        let seed = mix(self.seed, self.tensors.len() as u64);
        let source = Source::Floats { values, seed };
        let (name, dims) = (name.to_owned(), dims.to_vec());
        self.tensors.push(Tensor { name, dtype: DType::F32, dims, source });
    }

    fn pool(&mut self, dtype: DType, deviation: f64) -> Arc<Pool> {
        let found = self.pools.iter().find(|(t, d, _)| *t == dtype && *d == deviation);
        if let Some((.., pool)) = found {
            return Arc::clone(pool);
        }
        let pool = Arc::new(Pool::new(dtype, deviation, mix(!self.seed, self.pools.len() as u64)));
        self.pools.push((dtype, deviation, Arc::clone(&pool)));
        pool
    }
}
