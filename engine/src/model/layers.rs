//! From a blueprint and a source of weights to layers, role by role.
//!
//! Shapes follow from the blueprint (`shapes`) and are checked by the source. What transformers and ggml store
//! differently is evened out here, and only here: norms become ready to multiply, rates become −e^A,
//! fused matrices of Qwen3-Next become separate ones (whole rows move, so this works on any type).

use super::attention::{Attention, Biases, HeadNorms};
use super::blueprint::{Blueprint, FeedForwardKind, MixerKind, Norms};
use super::delta_net::DeltaNet;
use super::mlp::Mlp;
use super::moe::{Moe, SharedExpert};
use super::{FeedForward, Layer, Mixer};
use crate::backend::DeltaShape;
use crate::error::EngineError;
use crate::tensor::{AlignedBytes, Matrix, MatrixShape};
use crate::weights::{Form, Role, Weights, canonical_name};

/// Loads a model's weights that stay in memory.
pub(super) struct Loader<'a> {
    blueprint: &'a Blueprint,
    weights: &'a Weights,
}

impl<'a> Loader<'a> {
    pub(super) fn new(blueprint: &'a Blueprint, weights: &'a Weights) -> Self {
        Loader { blueprint, weights }
    }

    /// [vocab, hidden]
    pub(super) fn embedding(&self) -> Result<Matrix, EngineError> {
        self.outside().matrix(Role::Embedding)
    }

    /// [vocab, hidden], or `None` if the embedding serves.
    pub(super) fn head(&self) -> Result<Option<Matrix>, EngineError> {
        if self.blueprint.config.tied {
            return Ok(None);
        }
        self.outside().matrix(Role::Head).map(Some)
    }

    /// The norm before the output matrix.
    pub(super) fn norm(&self) -> Result<Vec<f32>, EngineError> {
        self.outside().norm(Role::Norm)
    }

    /// All layers in order.
    pub(super) fn layers(&self) -> Result<Vec<Layer>, EngineError> {
        (0..self.blueprint.layers.len()).map(|index| self.layer(index)).collect()
    }

    fn layer(&self, index: usize) -> Result<Layer, EngineError> {
        let source = Source { loader: self, layer: Some(index) };
        let plan = self.blueprint.layers[index];
        Ok(Layer {
            input_norm: source.norm(Role::InputNorm)?,
            mixer: match plan.mixer {
                MixerKind::Attention => Mixer::Attention(source.attention()?),
                MixerKind::DeltaNet => Mixer::DeltaNet(source.delta_net()?),
            },
            post_norm: source.norm(Role::PostNorm)?,
            feed_forward: match plan.feed_forward {
                FeedForwardKind::Moe => FeedForward::Moe(source.moe()?),
                FeedForwardKind::Mlp => {
                    FeedForward::Mlp(source.mlp([Role::MlpGate, Role::MlpUp, Role::MlpDown])?)
                }
            },
        })
    }

    /// The tensors outside all layers.
    fn outside(&self) -> Source<'_> {
        Source { loader: self, layer: None }
    }
}

/// The tensors of one layer, or those outside all layers.
struct Source<'a> {
    loader: &'a Loader<'a>,
    layer: Option<usize>,
}

impl Source<'_> {
    fn name(&self, role: Role) -> String {
        canonical_name(self.layer, role)
    }

    fn has(&self, role: Role) -> bool {
        self.loader.weights.has(&self.name(role))
    }

    fn matrix(&self, role: Role) -> Result<Matrix, EngineError> {
        let [rows, cols] = self.loader.blueprint.shape(role)[..] else {
            panic!("{role:?} is no matrix")
        };
        self.loader.weights.matrix(&self.name(role), rows, cols)
    }

    fn vector(&self, role: Role) -> Result<Vec<f32>, EngineError> {
        self.loader.weights.vector(&self.name(role), &self.loader.blueprint.shape(role))
    }

    /// Weights of an RMS norm, ready to multiply.
    fn norm(&self, role: Role) -> Result<Vec<f32>, EngineError> {
        let mut weight = self.vector(role)?;
        let stored = (self.loader.blueprint.norms, self.loader.weights.form());
        if stored == (Norms::ZeroCentred, Form::Transformers) {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    fn attention(&self) -> Result<Attention, EngineError> {
        let plan = &self.loader.blueprint.attention;
        let bias = |present: bool, role| if present { self.vector(role) } else { Ok(Vec::new()) };
        let norms = || -> Result<HeadNorms, EngineError> {
            Ok(HeadNorms {
                q: self.norm(Role::AttnQNorm)?,
                k: self.norm(Role::AttnKNorm)?,
                eps: self.loader.blueprint.config.norm_eps,
            })
        };
        Ok(Attention {
            shape: plan.shape,
            gated: plan.gated,
            q: self.matrix(Role::AttnQ)?,
            k: self.matrix(Role::AttnK)?,
            v: self.matrix(Role::AttnV)?,
            o: self.matrix(Role::AttnO)?,
            biases: Biases {
                q: bias(plan.qkv_bias, Role::AttnQBias)?,
                k: bias(plan.qkv_bias, Role::AttnKBias)?,
                v: bias(plan.qkv_bias, Role::AttnVBias)?,
                o: bias(plan.o_bias, Role::AttnOBias)?,
            },
            norms: plan.qk_norm.then(norms).transpose()?,
        })
    }

    fn delta_net(&self) -> Result<DeltaNet, EngineError> {
        let blueprint = self.loader.blueprint;
        let plan = blueprint.delta.expect("families with delta nets say how large these are");
        let form = self.loader.weights.form();
        let shape = blueprint.delta_shape(form).expect("as above");
        let (qkv, z) = self.delta_qkv_z(shape)?;
        let (b, a) = self.delta_b_a(shape)?;
        let conv = self.vector(Role::DeltaConv)?;
        let channels = conv.len() / plan.conv_width;
        let mut rate = self.vector(Role::DeltaRate)?;
        if form == Form::Transformers {
            rate.iter_mut().for_each(|a| *a = -a.exp());
        }
        Ok(DeltaNet {
            shape,
            qkv,
            z,
            b,
            a,
            conv: transposed(&conv, channels, plan.conv_width),
            negative_rate: rate,
            dt_bias: self.vector(Role::DeltaDtBias)?,
            norm: self.vector(Role::DeltaNorm)?,
            out: self.matrix(Role::DeltaOut)?,
            norm_eps: blueprint.config.norm_eps,
        })
    }

    /// Q, K and V in one matrix, and Z.
    fn delta_qkv_z(&self, shape: DeltaShape) -> Result<(Matrix, Matrix), EngineError> {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = shape;
        if !self.has(Role::DeltaQkvz) {
            let qkv = self.matrix(Role::DeltaQkv)?;
            return Ok((qkv, self.matrix(Role::DeltaZ)?));
        }
        // Key head by key head: its q, its k, the v of its value heads, their z.
        let fused = self.matrix(Role::DeltaQkvz)?;
        let own_values = value_heads / key_heads * value_dim;
        let group = 2 * key_dim + 2 * own_values;
        let part = |start: usize, len: usize| {
            (0..key_heads).flat_map(move |head| head * group + start..head * group + start + len)
        };
        let q_k_v =
            part(0, key_dim).chain(part(key_dim, key_dim)).chain(part(2 * key_dim, own_values));
        let z = part(2 * key_dim + own_values, own_values);
        Ok((rows_of(&fused, q_k_v), rows_of(&fused, z)))
    }

    fn delta_b_a(&self, shape: DeltaShape) -> Result<(Matrix, Matrix), EngineError> {
        let DeltaShape { key_heads, value_heads, .. } = shape;
        if !self.has(Role::DeltaBa) {
            let b = self.matrix(Role::DeltaB)?;
            return Ok((b, self.matrix(Role::DeltaA)?));
        }
        // Key head by key head: the b of its value heads, their a.
        let fused = self.matrix(Role::DeltaBa)?;
        let own = value_heads / key_heads;
        let part = |start: usize| {
            (0..key_heads).flat_map(move |k| 2 * k * own + start..2 * k * own + start + own)
        };
        Ok((rows_of(&fused, part(0)), rows_of(&fused, part(own))))
    }

    fn moe(&self) -> Result<Moe, EngineError> {
        let plan = &self.loader.blueprint.moe;
        let shared = |_| -> Result<SharedExpert, EngineError> {
            let roles = [Role::SharedGate, Role::SharedUp, Role::SharedDown];
            let scale = self.matrix(Role::SharedScale)?;
            Ok(SharedExpert { mlp: self.mlp(roles)?, scale })
        };
        Ok(Moe {
            gate: self.matrix(Role::Gate)?,
            chosen: plan.chosen,
            normalise: plan.normalise,
            drop_below: plan.drop_below,
            shared: plan.shared.map(shared).transpose()?,
        })
    }

    fn mlp(&self, roles: [Role; 3]) -> Result<Mlp, EngineError> {
        let [gate, up, down] = roles;
        Ok(Mlp { gate: self.matrix(gate)?, up: self.matrix(up)?, down: self.matrix(down)? })
    }
}

/// A matrix of some rows of another, in the order given.
fn rows_of(matrix: &Matrix, rows: impl Iterator<Item = usize> + Clone) -> Matrix {
    let from = matrix.view();
    let shape = MatrixShape { rows: rows.clone().count(), ..from.shape };
    let row_bytes = from.bytes.len() / from.shape.rows;
    let mut bytes = AlignedBytes::zeroed(shape.rows * row_bytes);
    for (out, row) in bytes.as_mut_slice().chunks_exact_mut(row_bytes).zip(rows) {
        out.copy_from_slice(from.row(row));
    }
    Matrix::new(shape, bytes)
}

/// [channels, width] to [width, channels], so that all channels of a tap lie together.
fn transposed(conv: &[f32], channels: usize, width: usize) -> Vec<f32> {
    (0..width).flat_map(|tap| (0..channels).map(move |c| conv[c * width + tap])).collect()
}
