// The icon of a template: one of ours for those that ship, else the sign that the
// template names for itself.
import { Text, ThemeIcon } from '@mantine/core'
import {
  IconArchive,
  IconDatabaseMinus,
  IconFileExport,
  IconHistory,
  IconMail,
  IconMessage,
  type IconProps,
  IconReportAnalytics,
  IconTestPipe,
  IconTicket,
  IconWebhook,
} from '@tabler/icons-react'
import type { ComponentType } from 'react'

const icons: Record<string, ComponentType<IconProps>> = {
  backup: IconArchive,
  channel_message: IconMessage,
  data_export: IconFileExport,
  database_cleanup: IconDatabaseMinus,
  email_notification: IconMail,
  report_generation: IconReportAnalytics,
  restore: IconHistory,
  test_scheduler: IconTestPipe,
  ticket_cleanup: IconTicket,
  webhook_trigger: IconWebhook,
}

export function TemplateIcon({ type, sign, size = 34 }: { type: string; sign?: string; size?: number }) {
  const Icon = icons[type]
  return (
    <ThemeIcon variant="light" size={size} radius="md" aria-hidden>
      {Icon ? <Icon size={size * 0.6} stroke={1.7} /> : <Text size={size > 30 ? 'lg' : 'sm'}>{sign || '•'}</Text>}
    </ThemeIcon>
  )
}
