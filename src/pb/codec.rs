//! How messages are put into bytes: prost's way, with buffers that suit a token.
//!
//! tonic sets a buffer aside for each call before there is anything to put in, 8 KiB by default: a third of
//! what an idle stream costs, and more than malloc keeps at hand. What is larger makes it grow.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that a call sets aside, each way.
const BUFFER_BYTES: usize = 512;
/// What messages that are ready together fill, at most, before they leave as one DATA frame.
pub(crate) const FRAME_BYTES: usize = 32 * 1024;

/// tonic's codec for prost with smaller buffers.
#[derive(Clone, Debug)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, FRAME_BYTES)
}
