// The loop of a driver in JavaScript: the commands are those of ../driver.py.

import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

export class Unsupported extends Error {}

export const b64 = (value) => (value === null || value === undefined ? null : Buffer.from(value).toString('base64'))
export const raw = (text) => (text === null || text === undefined ? null : Buffer.from(text, 'base64'))
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

export const text = (path) => (path ? readFileSync(path, 'utf8') : undefined)

// What node's tls wants, from the arguments of the command secure.
export const certificates = ({ ca, certificate, key }) => ({ ca: text(ca), cert: text(certificate), key: text(key) })

export function within (ms, promise, what) {
  let timer
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`timed out: ${what}`)), ms) })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

// What a member's callbacks brought, until poll asks for it.
export class Inbox {
  messages = []
  assigned = []

  async poll ({ timeout_ms, count }) {
    const end = Date.now() + timeout_ms
    while (this.messages.length < count && Date.now() < end) await sleep(20)
    return { messages: this.messages.splice(0, count), assigned: [...this.assigned].sort((a, b) => a - b) }
  }
}

function said (error) {
  const causes = [error.cause, ...(error.errors ?? [])].filter((e) => e instanceof Error)
  return [`${error.name}: ${error.type ?? error.code ?? error.apiId ?? ''} ${error.message}`, ...new Set(causes.map(said))].join(' / ')
}

export async function serve (make) {
  const client = make(process.argv[2])
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...command } = JSON.parse(line)
    let answer
    try {
      if (!client[name]) throw new Unsupported('the client has no such call')
      answer = (await client[name](command)) ?? {}
    } catch (error) {
      answer = error instanceof Unsupported ? { unsupported: error.message } : { error: said(error) }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
  process.exit(0)
}
