#include "families.h"
#include "few_channels.h"

namespace myconv2d::MYCONV2D_ISA {

MYCONV2D_EACH_FLOAT(MYCONV2D_FEW_CHANNELS, template)

}  // namespace myconv2d::MYCONV2D_ISA
