//! Server reflection, v1 and v1alpha: tools learn the services without a .proto.
//!
//! If a name is unknown, the reply is an `error_response` and the stream continues, as the protocol requires.
//! tonic-reflection's own service ends the stream, and it lists only one version. Both versions have the same
//! messages, so one index serves both. Replies are built as they are read, so nothing is buffered for a caller.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use bytes::Bytes;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{
    v1::{
        self, ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest as Asked,
        server_reflection_response::MessageResponse as Answer,
        server_reflection_server::ServerReflectionServer,
    },
    v1alpha,
};

use crate::pb;

/// The bridge's own, health's, reflection's, and google.rpc's: without the last, grpcurl prints rich errors as base64.
const DESCRIPTORS: [&[u8]; 5] = [
    pb::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_types::pb::FILE_DESCRIPTOR_SET,
    v1::FILE_DESCRIPTOR_SET,
    v1alpha::FILE_DESCRIPTOR_SET,
];

/// Both versions of the service. Clones share the index.
#[derive(Clone, Debug)]
pub(super) struct Reflection(Arc<Index>);

/// Encoded files, by name and by each symbol that they define.
#[derive(Debug, Default)]
struct Index {
    services: Vec<String>,
    files: HashMap<String, Bytes>,
    symbols: HashMap<String, Bytes>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Reflection {
    /// Builds the index from the descriptors compiled into the binary.
    pub(super) fn new() -> Self {
        let mut index = Index::default();
        for set in DESCRIPTORS {
            let set = FileDescriptorSet::decode(set).expect("descriptors made at build time");
            for file in &set.file {
                index.add(file);
            }
        }
        Self(Arc::new(index))
    }

    /// The service that tools try first.
    pub(super) fn v1(&self) -> ServerReflectionServer<Self> {
        ServerReflectionServer::new(self.clone())
    }

    /// The service that older tools use.
    pub(super) fn v1alpha(
        &self,
    ) -> v1alpha::server_reflection_server::ServerReflectionServer<Self> {
        v1alpha::server_reflection_server::ServerReflectionServer::new(self.clone())
    }
}

#[tonic::async_trait]
impl v1::server_reflection_server::ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        requests: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let index = Arc::clone(&self.0);
        let answers = requests
            .into_inner()
            .map(move |asked| Ok(index.answer(asked?)));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl v1alpha::server_reflection_server::ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<v1alpha::ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        requests: Request<Streaming<v1alpha::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let index = Arc::clone(&self.0);
        let answer = move |asked: Result<v1alpha::ServerReflectionRequest, Status>| {
            Ok(other_version(&index.answer(other_version(&asked?))))
        };
        Ok(Response::new(Box::pin(requests.into_inner().map(answer))))
    }
}

/// The same message in the other version.
fn other_version<T: Message + Default>(message: &impl Message) -> T {
    T::decode(&*message.encode_to_vec()).expect("both versions have the same fields")
}

impl Index {
    fn add(&mut self, file: &FileDescriptorProto) {
        let bytes = Bytes::from(file.encode_to_vec());
        if self.files.contains_key(file.name()) {
            return;
        }
        self.files.insert(file.name().to_owned(), bytes.clone());
        let package = file.package();
        for message in &file.message_type {
            self.add_message(package, message, &bytes);
        }
        for item in &file.enum_type {
            self.add_enum(package, item, &bytes);
        }
        for service in &file.service {
            let name = self.add_symbol(package, service.name(), &bytes);
            for method in &service.method {
                self.add_symbol(&name, method.name(), &bytes);
            }
            self.services.push(name);
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, file: &Bytes) {
        let name = self.add_symbol(scope, message.name(), file);
        for nested in &message.nested_type {
            self.add_message(&name, nested, file);
        }
        for item in &message.enum_type {
            self.add_enum(&name, item, file);
        }
        let fields = message.field.iter().map(|field| field.name());
        let oneofs = message.oneof_decl.iter().map(|oneof| oneof.name());
        for part in fields.chain(oneofs) {
            self.add_symbol(&name, part, file);
        }
    }

    fn add_enum(&mut self, scope: &str, item: &EnumDescriptorProto, file: &Bytes) {
        let name = self.add_symbol(scope, item.name(), file);
        for value in &item.value {
            self.add_symbol(&name, value.name(), file);
        }
    }

    fn add_symbol(&mut self, scope: &str, name: &str, file: &Bytes) -> String {
        let name = format!("{scope}.{name}");
        self.symbols.insert(name.clone(), file.clone());
        name
    }

    fn answer(&self, asked: ServerReflectionRequest) -> ServerReflectionResponse {
        let answer = match &asked.message_request {
            Some(Asked::FileByFilename(name)) => file(self.files.get(name), name),
            Some(Asked::FileContainingSymbol(name)) => file(self.symbols.get(name), name),
            Some(Asked::FileContainingExtension(_)) => {
                error(Code::NotFound, "no extensions are defined".into())
            }
            Some(Asked::AllExtensionNumbersOfType(name)) => {
                Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: Vec::new(),
                })
            }
            Some(Asked::ListServices(_)) => {
                let services = self.services.iter().cloned();
                let service = services.map(|name| ServiceResponse { name }).collect();
                Answer::ListServicesResponse(ListServiceResponse { service })
            }
            None => error(Code::InvalidArgument, "nothing is asked for".into()),
        };
        ServerReflectionResponse {
            valid_host: asked.host.clone(),
            original_request: Some(asked),
            message_response: Some(answer),
        }
    }
}

fn file(found: Option<&Bytes>, name: &str) -> Answer {
    match found {
        Some(file) => Answer::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![file.to_vec()],
        }),
        None => error(Code::NotFound, format!("{name} is not known")),
    }
}

fn error(code: Code, error_message: String) -> Answer {
    Answer::ErrorResponse(ErrorResponse {
        error_code: code.into(),
        error_message,
    })
}
