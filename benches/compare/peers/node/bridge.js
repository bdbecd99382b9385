// A bridge on grpc-js and undici: `node bridge.js UPSTREAM_URL PROTO_FOLDER`.
//
// Tuned as their docs say: one undici Agent without a limit of connections and without a body timeout, `request` rather
// than `fetch`, and 'drain' obeyed when the caller reads slowly. Both set TCP_NODELAY by themselves.
'use strict';

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const { Agent, request } = require('undici');
const { createParser } = require('eventsource-parser');

const [base, protos] = process.argv.slice(2);
const definition = protoLoader.loadSync('alim/v1/graph_service.proto', {
  includeDirs: [protos], keepCase: true, longs: Number, oneofs: true,
});
const { GraphService } = grpc.loadPackageDefinition(definition).alim.v1;
const dispatcher = new Agent({ connections: null, pipelining: 1, bodyTimeout: 0, headersTimeout: 0 });
const headers = { 'content-type': 'application/json', 'x-api-key': 'dev-api-key-change-in-production' };

function ask(method, call, signal) {
  return request(`${base}/graph/${method}`, {
    dispatcher, signal, method: 'POST', headers,
    body: JSON.stringify({ message: call.request.message }),
  });
}

function unavailable(error) {
  return { code: grpc.status.UNAVAILABLE, details: String(error?.message ?? error) };
}

async function invoke(call, answer) {
  try {
    const { statusCode, body } = await ask('invoke', call);
    const reply = await body.json();
    if (statusCode !== 200) throw new Error(`upstream said ${statusCode}`);
    answer(null, { response: reply.response, thread_id: reply.thread_id, model: reply.model ?? '' });
  } catch (error) {
    answer(unavailable(error));
  }
}

function message({ event, data }, tokens) {
  switch (event) {
    case 'token': return { token: { text: data } };
    case 'node': return { node: { name: data } };
    case 'done': return { done: { token_count: tokens } };
    default: return { other: { type: event ?? 'message', data } };
  }
}

async function stream(call) {
  const leaving = new AbortController();
  call.on('cancelled', () => leaving.abort());
  try {
    const { statusCode, body } = await ask('stream', call, leaving.signal);
    if (statusCode !== 200) throw new Error(`upstream said ${statusCode}`);
    let tokens = 0;
    let hasRoom = true;
    const parser = createParser({
      onEvent(event) {
        if (event.event === 'token') tokens += 1;
        hasRoom = call.write(message(event, tokens));
      },
    });
    const decoder = new TextDecoder();
    for await (const piece of body) {
      parser.feed(decoder.decode(piece, { stream: true }));
      if (!hasRoom && !call.cancelled) {
        await new Promise((resolve) => {
          call.once('drain', resolve);
          call.once('cancelled', resolve);
        });
      }
    }
    call.end();
  } catch (error) {
    if (!call.cancelled) call.emit('error', unavailable(error));
  }
}

const server = new grpc.Server({ 'grpc.max_concurrent_streams': 20000 });
server.addService(GraphService.service, { Invoke: invoke, Stream: stream });
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`node listening on 127.0.0.1:${port}`);
});
