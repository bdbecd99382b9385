//! prost's codec with small buffers, sized for a token.
//!
//! tonic allocates a buffer for each call before there is a message, 8 KiB by default. That is a third of the memory of an
//! idle stream, and more than malloc caches. The buffer grows for larger messages.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// The initial buffer of a call, in each direction.
const BUFFER_BYTES: usize = 512;
/// The maximum size of messages that tonic collects before it sends them as one DATA frame.
pub(crate) const FRAME_BYTES: usize = 32 * 1024;

/// tonic's prost codec with smaller buffers.
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
